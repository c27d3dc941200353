"""Champion and challenger on the same images, through the serving stack; then the gate.

Images are streamed, and each model scores all of them before the other begins, because switching adapters is expensive.
Only margins are kept.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError

from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.adapters.certificates import Certificate
from scanfleet.models.promotion import Facts, GateReport, Limits, Paired, Shadow, Side, judge
from scanfleet.models.promotion.types import Floats, Misfit
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question, Reading, Scorer
from scanfleet.stats.psi import psi
from scanfleet.worker.device.probe import UNPROBED_TOKENS
from scanfleet.worker.evaluation.calibrate import Calibrated, Measured, answer_of, cross_fitted, measured
from scanfleet.worker.evaluation.latency import measure_latency
from scanfleet.worker.evaluation.readings import Picture, Read, Watch, read_images
from scanfleet.worker.scoring.decisions import Policy, certified_at

BASE_ALONE = "base alone"
MAX_LOGIT = 4.0  # larger logits (probability over .982) make no practical difference


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of the two models, with its calibration. learnt: False for the base alone. certified_on: number of labels.

    cross_fitted: its calibrator is fitted on golden images, so each is judged by one that was fitted on others.
    """

    name: str
    scorer: Scorer
    calibrator: Calibrator | None
    thresholds: Thresholds | None = None
    misfit: Misfit | None = None
    learnt: bool = True
    recall: Certificate | None = None
    precision: Certificate | None = None
    certified_on: int | None = None
    cross_fitted: bool = False

    @classmethod
    def of_card(cls, name: str, scorer: Scorer, card: AdapterCard, *, prevalence: float | None = None) -> Self:
        """An adapter as it is served. Its metrics hold the reason if it has no calibrator.

        prevalence: of the archive; a flag threshold that was certified at a larger one is not served.
        """
        held = Policy(question=card.question, calibrator=card.calibrator, thresholds=card.thresholds)
        share = certified_at(card.metrics, card.calibrator)
        misfit: Misfit | None = None
        if card.calibrator is None:
            stored = card.metrics.get("misfit")
            misfit = stored if stored in get_args(Misfit) else "no labelled images"
        n = card.metrics.get("certified_on")
        return cls(
            name=name,
            scorer=scorer,
            calibrator=card.calibrator,
            thresholds=held.in_archive(prevalence, certified_at=share).thresholds,
            misfit=misfit,
            recall=_certificate(card.metrics.get("recall_certificate")),
            precision=_certificate(card.metrics.get("precision_certificate")),
            certified_on=n if isinstance(n, int) else None,
        )

    @classmethod
    def of_base(cls, scorer: Scorer, found: Calibrated, *, cross_fitted: bool = False) -> Self:
        """The base alone, calibrated as well as its labels allow."""
        return cls(
            name=BASE_ALONE,
            scorer=scorer,
            calibrator=found.calibrator,
            thresholds=found.thresholds,
            misfit=found.misfit,
            learnt=False,
            cross_fitted=cross_fitted,
        )

    def side(self, readings: Sequence[Reading]) -> Side:
        return Side(
            name=self.name,
            margins=np.array([reading.margin for reading in readings], dtype=np.float64),
            answers=np.array([answer_of(reading) for reading in readings], dtype=np.int64),
            calibrator=self.calibrator,
            thresholds=self.thresholds,
            misfit=self.misfit,
            learnt=self.learnt,
            recall=self.recall,
            precision=self.precision,
            certified_on=self.certified_on,
        )


def _certificate(stored: Any) -> Certificate | None:
    """A certificate from the metrics of a card. None for a value that is not one, as a card from elsewhere may have."""
    if not isinstance(stored, Mapping):
        return None
    known = {one.name: stored[one.name] for one in fields(Certificate) if one.name in stored}
    try:
        found = TypeAdapter(Certificate).validate_python(known)
    except ValidationError:
        return None
    shares = found.target, found.confidence, found.target if found.on_labels is None else found.on_labels
    return found if all(0 < share < 1 for share in shares) else None


@dataclass(frozen=True, kw_only=True)
class GoldenSet:
    """recent: keys labelled since the champion's training; None: all of them. slices: dimension -> key -> value, for
    dimensions other than label and size."""

    examples: Sequence[Example]
    recent: Collection[str] | None = None
    slices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def compare(
    *,
    question: Question,
    golden: GoldenSet,
    champion: Candidate,
    challenger: Candidate,
    shadow: Sequence[Picture] = (),
    facts: Facts | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    token_budget: int = UNPROBED_TOKENS,
    watch: Watch | None = None,
) -> GateReport:
    """The gate's report. Raises what the device raises; images that cannot be read are left out for both and counted.

    watch: gets the number of images done, over both models and both sets.
    """
    progress = _TotalProgress(watch, total=2 * (len(golden.examples) + len(shadow)))
    reads = [
        (
            read_images(side.scorer, golden.examples, token_budget=token_budget, watch=progress.part()),
            read_images(side.scorer, shadow, token_budget=token_budget, watch=progress.part()),
        )
        for side in (champion, challenger)
    ]
    (golden_before, shadow_before), (golden_after, shadow_after) = reads
    paired = pair(question, golden, champion, challenger, golden_before, golden_after, facts=facts)
    seconds = measure_latency(champion.scorer, challenger.scorer, shadow or golden.examples, token_budget=token_budget)
    unlabelled = shadow_of(question, champion, challenger, shadow_before, shadow_after, seconds=seconds)
    unlabelled = replace(unlabelled, golden_psi=shift_between(paired.champion, paired.challenger))
    report = judge(paired, unlabelled, limits=limits, seed=seed)
    left_out = {"golden": len(golden.examples) - len(paired), "shadow": len(shadow) - len(shadow_after.readings)}
    return replace(report, figures={**report.figures, "left_out": left_out})


def pair(
    question: Question,
    golden: GoldenSet,
    champion: Candidate,
    challenger: Candidate,
    before: Read,
    after: Read,
    *,
    facts: Facts | None = None,
) -> Paired:
    """Both models on the golden images that both could read.

    An image that only the challenger fails to score is not counted against the image: it goes into the facts.
    """
    seen = [example for example in golden.examples if _has_number(before, example) and _has_number(after, example)]
    unreadable = sum(_has_number(before, example) and not _has_number(after, example) for example in golden.examples)
    sizes = {key: size_class(size, question) for key, size in after.sizes.items()}
    slices = {"size": sizes, **golden.slices}
    sides = []
    for candidate, read in ((champion, before), (challenger, after)):
        side = candidate.side([read.readings[example.key] for example in seen])
        sides.append(_judged_on(side, measured(seen, read.readings, question)) if candidate.cross_fitted else side)
    return Paired(
        question=question,
        keys=[example.key for example in seen],
        truth=np.array([example.label for example in seen], dtype=np.int64),
        clusters=[example.cluster for example in seen],
        champion=sides[0],
        challenger=sides[1],
        recent=np.array([golden.recent is None or example.key in golden.recent for example in seen], dtype=np.bool_),
        slices={name: [values.get(example.key) for example in seen] for name, values in slices.items()},
        facts=replace(facts or Facts(), unreadable=unreadable),
    )


def _judged_on(side: Side, images: Sequence[Measured]) -> Side:
    """The side with each image judged by a calibrator of other images; without one if a part of them allows none."""
    calibrators = [each for each in cross_fitted(images) if each is not None]
    if side.calibrator is None or len(calibrators) < len(images):
        return replace(side, calibrator=None, misfit=side.misfit or "too few labelled images")
    log_odds = [own.a * each.margin + own.b for own, each in zip(calibrators, images, strict=True)]
    return replace(side, cross_fitted=np.array(log_odds, dtype=np.float64))


def _has_number(read: Read, example: Picture) -> bool:
    reading = read.readings.get(example.key)
    return reading is not None and math.isfinite(reading.margin)


def size_class(size: tuple[int, int], question: Question) -> str:
    """The size of an image in terms of the pixel budget."""
    shrunk = size[0] * size[1] / question.max_pixels
    if shrunk <= 1:
        return "within the pixel budget"
    return "up to 4 times the pixel budget" if shrunk <= 4 else "over 4 times the pixel budget"


def shadow_of(
    question: Question,
    champion: Candidate,
    challenger: Candidate,
    before: Read,
    after: Read,
    *,
    seconds: Sequence[tuple[float, float]],
) -> Shadow:
    """Both models on unlabelled images: which are flagged, and how far the probabilities shifted."""
    keys = [key for key, reading in after.readings.items() if math.isfinite(reading.margin) and key in before.readings]
    keys = [key for key in keys if math.isfinite(before.readings[key].margin)]
    before_side = champion.side([before.readings[key] for key in keys])
    after_side = challenger.side([after.readings[key] for key in keys])
    flagging = keys if question.flags else []
    return Shadow(
        champion_flags=np.asarray(before_side.flagged[: len(flagging)], dtype=np.bool_),
        challenger_flags=np.asarray(after_side.flagged[: len(flagging)], dtype=np.bool_),
        psi=shift_between(before_side, after_side),
        seconds=seconds,
    )


def shift_between(before: Side, after: Side) -> float | None:
    """Return the PSI of calibrated log-odds; None without images or calibrators."""
    ours, theirs = after.log_odds(), before.log_odds()
    if not len(before.margins) or theirs is None or ours is None:
        return None
    return psi(clipped(theirs), clipped(ours))


def clipped(log_odds: Floats) -> list[float]:
    """Calibrated log-odds, which are comparable; raw margins of two trainings have no common scale."""
    return [float(logit) for logit in np.clip(log_odds, -MAX_LOGIT, MAX_LOGIT)]


class _TotalProgress:
    """One count over several passes."""

    def __init__(self, watch: Watch | None, *, total: int) -> None:
        self._watch = watch
        self._total = total
        self._done = 0  # in finished passes

    def part(self) -> Watch:
        before = self._done

        def count(done: int, _: int) -> None:
            self._done = before + done
            if self._watch is not None:
                self._watch(self._done, self._total)

        return count
