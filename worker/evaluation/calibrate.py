"""From a scorer's margins on labelled images to a calibrator, thresholds and unbiased figures.

All splits are new to the training, and each serves every purpose; with few labels the golden one as well
(`worker.evaluation.held_out`). The calibrator (Platt) is fitted on all; its figures are cross-fitted, each image by a
calibrator of the other folds, so that none is judged on what it was fitted to. Thresholds are margins and need no
calibrator: a certificate needs many positives, and with few labels one split would certify nothing. Look-alikes lie in
one fold and count once. `prevalence`, of the archive, moves the flag threshold and stands beside the certificate;
calibrator and figures stay at the prevalence of the labels, and a worker moves the score
(`worker.scoring.decisions`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from scanfleet.models.adapters.calibration import Calibrator, Thresholds, fit_platt
from scanfleet.models.adapters.calibration import thresholds_from as both_thresholds
from scanfleet.models.adapters.certificates import Certificate, certify_precision, certify_recall
from scanfleet.models.adapters.metrics import probability_figures, ranking_figures, wilson
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.promotion.types import Misfit
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question, Reading, Scorer
from scanfleet.worker.evaluation.readings import Read, Watch, read_images

CONFIDENCE = 0.95
FOLDS = 5
SHARED = "calibration, threshold and golden, cross-fitted"  # in a card's metrics, as `split`
MARGINS = "margins"  # in a card's metrics: histograms of the calibration margins


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One labelled image, scored. event: the outcome that is predicted: a flagging label, or a right answer.

    cluster: name shared by look-alikes; None: no other image is like it.
    """

    key: str
    margin: float
    event: bool
    right: bool  # whether the answer is the label
    cluster: str | None = None


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The calibration of one scorer.

    calibrator None: `misfit` holds the reason. recall, precision: the certificates, None for a plain classification.
    metrics: plain JSON, for the card. readings: of all images, by key.
    """

    calibrator: Calibrator | None
    misfit: Misfit | None
    thresholds: Thresholds | None
    recall: Certificate | None
    precision: Certificate | None
    metrics: dict[str, Any]
    readings: dict[str, Reading] = field(default_factory=dict, repr=False)


def calibrated(
    scorer: Scorer,
    calibration: Sequence[Example],
    threshold: Sequence[Example],
    question: Question,
    target_recall: float,
    target_precision: float,
    *,
    golden: Sequence[Example] = (),
    prevalence: float | None = None,
    watch: Watch | None = None,
) -> Calibrated:
    """Score the splits through the serving stack and calibrate. A fit that fails is a result, not an error.

    golden: those that serve here, too. prevalence: share of positives in the archive; None: that of the labels.

    Raises what the device raises.
    """
    read = read_images(scorer, [*calibration, *threshold, *golden], watch=watch)
    first, second = (measured(part, read.readings, question) for part in (calibration, [*threshold, *golden]))
    found = calibrated_from(first, second, question, target_recall, target_precision, prevalence=prevalence)
    metrics = found.metrics | {"left_out": len(read.left_out), "mean_mass": _mean_mass(read)}
    if golden:
        metrics["split"] = SHARED
    return replace(found, metrics=metrics, readings=dict(read.readings))


def calibrated_from(
    calibration: Sequence[Measured],
    threshold: Sequence[Measured],
    question: Question,
    target_recall: float,
    target_precision: float,
    *,
    prevalence: float | None = None,
) -> Calibrated:
    """Calibrate from margins. prevalence: as in `calibrated`."""
    both = [*calibration, *threshold]
    calibrator, misfit = fit(both)
    if not all(math.isfinite(each.margin) for each in both):
        calibrator, misfit = None, "margins that are no numbers"
    thresholds = recall = precision = None
    clusters = [each.cluster or each.key for each in both]
    if question.flags and misfit != "margins that are no numbers":
        margins, events = [each.margin for each in both], [each.event for each in both]
        recall = certify_recall(margins, events, target=target_recall, clusters=clusters)
        precision = certify_precision(
            margins, events, target=target_precision, prevalence=prevalence, clusters=clusters
        )
        thresholds = both_thresholds(recall, precision)
    metrics = {
        "split": "calibration and threshold, cross-fitted",
        "calibration_images": len(both),
        "misfit": misfit,
        **figures(both, cross_fitted(both), question),
        "recall_certificate": _certificate(recall, what="positives"),
        "precision_certificate": _certificate(precision, what="flagged"),
        "certified_on": len(both),
        "clusters": len(set(clusters)),
        MARGINS: _margins(both) if all(math.isfinite(each.margin) for each in both) else None,
    }
    return Calibrated(
        calibrator=calibrator,
        misfit=misfit,
        thresholds=thresholds,
        recall=recall,
        precision=precision,
        metrics=metrics,
    )


def fit(measured: Sequence[Measured]) -> tuple[Calibrator | None, Misfit | None]:
    """A Platt calibrator for these images, or the reason why there is none."""
    events = [each.event for each in measured]
    if not events:
        return None, "no labelled images"
    if all(events) or not any(events):
        return None, "one kind of label alone"
    if not all(math.isfinite(each.margin) for each in measured):
        return None, "margins that are no numbers"
    try:
        return fit_platt([each.margin for each in measured], events), None
    except ModelInvalid:  # the only remaining reason
        return None, "higher margins do not mean positive"


def cross_fitted(measured: Sequence[Measured]) -> list[Calibrator | None]:
    """For each image the calibrator fitted to the other folds; whole clusters lie in one. None where that fails."""
    names = [each.cluster or each.key for each in measured]
    folds = {name: at % FOLDS for at, name in enumerate(sorted(set(names), key=_position))}
    fitted = {
        fold: fit([each for each, name in zip(measured, names, strict=True) if folds[name] != fold])[0]
        for fold in set(folds.values())
    }
    return [fitted[folds[name]] for name in names]


def _position(cluster: str) -> str:
    """An order that has nothing to do with names or labels."""
    return hashlib.sha256(cluster.encode()).hexdigest()


def figures(
    measured: Sequence[Measured], calibrators: Sequence[Calibrator | None], question: Question
) -> dict[str, Any]:
    """Quality of a scorer on these images, each proportion with its Wilson interval. Flags are at even odds.

    calibrators: one for each image, which was not fitted to it. The quality of probabilities is left out unless all
    images have one.
    """
    n, right = len(measured), sum(each.right for each in measured)
    events = [each.event for each in measured]
    out: dict[str, Any] = {"n": n, "label_accuracy": proportion(right, n), "prevalence": proportion(sum(events), n)}
    if not n or not all(math.isfinite(each.margin) for each in measured):
        return out
    out |= ranking_figures([each.margin for each in measured], events)
    pairs = [(each.margin, own) for each, own in zip(measured, calibrators, strict=True)]
    probabilities = [own.probability(margin) for margin, own in pairs if own is not None]
    if len(probabilities) == n:
        out |= probability_figures(probabilities, events)
    if question.flags:
        flagged = [margin >= (0.0 if own is None else -own.b / own.a) for margin, own in pairs]
        hits = sum(event and flag for event, flag in zip(events, flagged, strict=True))
        out["recall"] = proportion(hits, sum(events))
        out["precision"] = proportion(hits, sum(flagged))
        out["flag_accuracy"] = proportion(sum(a == b for a, b in zip(events, flagged, strict=True)), n)
    return out


def proportion(successes: int, trials: int) -> dict[str, Any]:
    low, high = wilson(successes, trials, confidence=CONFIDENCE)
    value = successes / trials if trials else None
    return {"value": value, "low": low, "high": high, "successes": successes, "n": trials}


def _certificate(found: Certificate | None, *, what: str) -> dict[str, Any] | None:
    if found is None:
        return None
    low, high = map(found.in_archive, wilson(found.trials - found.failures, found.trials, confidence=CONFIDENCE))
    return asdict(found) | {"met": found.met, "of": what, "low": low, "high": high}


def measured(examples: Sequence[Example], readings: Mapping[str, Reading], question: Question) -> list[Measured]:
    """The images that could be scored."""
    flags = [label in question.flags for label in question.labels]
    out = []
    for example in examples:
        reading = readings.get(example.key)
        if reading is None:
            continue
        right = answer_of(reading) == example.label
        event = flags[example.label] if question.flags else right
        out.append(Measured(key=example.key, margin=reading.margin, event=event, right=right, cluster=example.cluster))
    return out


def answer_of(reading: Reading) -> int:
    """Index of the most likely label."""
    return max(range(len(reading.logits)), key=reading.logits.__getitem__)


def _margins(measured: Sequence[Measured]) -> dict[str, Any] | None:
    """Histograms of the margins, over deciles of all: of the images that should flag, and of the others."""
    if not measured:
        return None
    margins = np.array([each.margin for each in measured])
    event = np.array([each.event for each in measured], dtype=bool)
    edges = np.unique(np.quantile(margins, np.linspace(0.1, 0.9, 9)))
    of = {
        name: np.bincount(np.searchsorted(edges, part, side="right"), minlength=len(edges) + 1).tolist()
        for name, part in (("positive", margins[event]), ("negative", margins[~event]))
    }
    return {"edges": edges.tolist(), "span": [float(margins.min()), float(margins.max())], **of}


def _mean_mass(read: Read) -> float | None:
    masses = [reading.mass for reading in read.readings.values() if math.isfinite(reading.mass)]
    return math.fsum(masses) / len(masses) if masses else None
