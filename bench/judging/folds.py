"""What LABELS labels give the gate and the certificates, by three ways to use them, on simulated margins.

split: calibration and thresholds on a quarter of the labels, the gate on golden images alone. pooled: everything that
no training learnt from serves all of these, the challenger's calibrators cross-fitted. folds: margins of models that
were trained without the image, for all labels. Those models are others than the one that is delivered: worse, and with
another slope and offset (`APART`, about as `bench.training.folds` finds them). The champion was made of the first
CHAMPION of the labels; its calibrator saw them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bench.judging.gate import QUESTION, Images, skill_of
from scanfleet.models.adapters.certificates import certify_precision, certify_recall
from scanfleet.models.promotion import GateReport, Paired, Side, judge
from scanfleet.worker.evaluation.calibrate import Measured, cross_fitted, fit

PAIRS = int(os.environ.get("BENCH_PAIRS", "200"))  # of each cell
RESAMPLES = 300
LABELS = 400
HELD_OUT, GOLDEN = 160, 60  # of them, at the default splits
CHAMPION = 0.75  # of the labels, which the champion's calibrator saw
FOLDS = 5
TARGET = 0.95
Floats = NDArray[np.float64]
Arm = Literal["split", "pooled", "folds"]
ARMS: tuple[Arm, ...] = ("split", "pooled", "folds")


class Apart(NamedTuple):
    """How far a fold's model is from the delivered one: loss of skill in deviations, spread of the logarithm of slopes,
    and of offsets in deviations."""

    loss: float
    slope: float
    offset: float


APART = Apart(0.05, 0.12, 0.15)


class Cell(NamedTuple):
    before: float
    after: float


CELLS = (Cell(0.90, 0.90), Cell(0.90, 0.88), Cell(0.90, 0.95))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    verdict: str
    recall_kept: bool  # not certified, or it holds for the delivered model
    precision_kept: bool
    certified: tuple[bool, bool]


def one_pair(cell: Cell, arm: Arm, seed: int) -> Outcome:
    rng = np.random.default_rng([round(1000 * cell.after), seed])
    n = {"split": GOLDEN, "pooled": HELD_OUT, "folds": LABELS}[arm]
    images = Images(n, rng)
    skills = skill_of(cell.before), skill_of(cell.after)
    old, new = (images.margins(skill, rng) for skill in skills)
    if arm == "folds":
        old, new = (_by_folds(images, margins, rng) for margins in (old, new))
    if arm == "split":
        others = Images(HELD_OUT - GOLDEN, rng)
        before, after = (_measured(others, others.margins(skill, rng)) for skill in skills)
        sides = [_side("champion", images, old, before), _side("challenger", images, new, after)]
    else:
        before, after = _measured(images, old)[: round(CHAMPION * n)], _measured(images, new)
        log_odds = np.array(
            [one.a * each.margin + one.b for one, each in zip(cross_fitted(after), after, strict=True) if one]
        )
        sides = [_side("champion", images, old, before), _side("challenger", images, new, after, log_odds)]
    margins, events = [each.margin for each in after], [each.event for each in after]
    review = certify_recall(margins, events, target=TARGET).threshold
    flag = certify_precision(margins, events, target=TARGET).threshold
    return Outcome(
        verdict=_judge(images, sides, seed).verdict,
        recall_kept=review is None or _recall(skills[1], review) >= TARGET,
        precision_kept=flag is None or _precision(skills[1], flag) >= TARGET,
        certified=(review is not None, flag is not None),
    )


def _by_folds(images: Images, margins: Floats, rng: np.random.Generator) -> Floats:
    """Margins of the delivered model, made those of its folds' models."""
    fold = np.arange(len(margins)) % FOLDS
    slopes = np.exp(APART.slope * rng.standard_normal(FOLDS))
    offsets = APART.offset * rng.standard_normal(FOLDS)
    return slopes[fold] * (margins - np.where(images.positive, 1, -1) * APART.loss) + offsets[fold]


def _measured(images: Images, margins: Floats) -> list[Measured]:
    return [
        Measured(key=f"{at}", margin=float(margin), event=bool(positive), right=bool((margin >= 0) == positive))
        for at, (margin, positive) in enumerate(zip(margins, images.positive, strict=True))
    ]


def _side(
    name: str, images: Images, margins: Floats, fitted_on: Sequence[Measured], cross: Floats | None = None
) -> Side:
    answers = np.where(margins >= 0, 0, 1 + (images.truth == 2))
    return Side(name=name, margins=margins, answers=answers, calibrator=fit(fitted_on)[0], cross_fitted=cross)


def _judge(images: Images, sides: Sequence[Side], seed: int) -> GateReport:
    n = len(images.truth)
    paired = Paired(
        question=QUESTION,
        keys=[f"key{at}" for at in range(n)],
        truth=images.truth,
        clusters=[f"cluster{at}" for at in range(n)],
        champion=sides[0],
        challenger=sides[1],
        recent=np.ones(n, dtype=np.bool_),
    )
    return judge(paired, None, resamples=RESAMPLES, seed=seed)


def _recall(skill: float, threshold: float) -> float:
    return float(ndtr(skill - threshold))


def _precision(skill: float, threshold: float) -> float:
    right = _recall(skill, threshold) / 3
    return right / (right + 2 / 3 * float(ndtr(-skill - threshold)))


def _job(job: tuple[Cell, Arm, int]) -> Outcome:
    return one_pair(*job)


def cells() -> Iterator[tuple[str, dict[str, Any]]]:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for cell, arm in product(CELLS, ARMS):
            found = list(pool.map(_job, [(cell, arm, seed) for seed in range(PAIRS)], chunksize=10))
            promoted = [each for each in found if each.verdict == "promote"]
            yield (
                f"{arm}_{cell.before:.2f}_{cell.after:.2f}",
                {
                    "promoted": len(promoted) / PAIRS,
                    "rejected": sum(each.verdict == "reject" for each in found) / PAIRS,
                    "recall_kept": mean(each.recall_kept for each in found),
                    "precision_kept": mean(each.precision_kept for each in found),
                    "recall_kept_if_promoted": mean(each.recall_kept for each in promoted) if promoted else 1.0,
                    "precision_kept_if_promoted": mean(each.precision_kept for each in promoted) if promoted else 1.0,
                    "certified": np.mean([each.certified for each in found], axis=0).tolist(),
                },
            )
