"""The figure that tuning improves, and its uncertainty: paired cluster bootstrap on one set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scanfleet.models.promotion.bootstrap import Bounded, Ranking, Weights, bounded, recall_at, weights
from scanfleet.models.promotion.types import Bools, Floats

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The answers of a setting for n images, and their cost.

    margins: (n,) after fusion. right: (n,) whether the label is right. tokens: (n,) visual tokens of all passes,
    including those of finding a region. cropped: (n,) whether there was a crop pass.
    """

    margins: Floats
    right: Bools
    tokens: Floats
    cropped: Bools

    @property
    def mean_tokens(self) -> float:
        return float(self.tokens.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """positive: (n,) whether the label is a flagging one. clusters: images of one group are sampled together."""

    positive: Bools
    clusters: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Recall at a false-positive rate. at_fpr None: share of right labels, for a plain classification."""

    at_fpr: float | None

    @property
    def name(self) -> str:
        return "accuracy" if self.at_fpr is None else f"recall at {self.at_fpr:.3g} false positives"

    def value(self, outcome: Outcome, truth: Truth) -> float:
        return float(self.samples(outcome, truth, np.ones((1, len(outcome.margins)), dtype=np.float32))[0])

    def samples(self, outcome: Outcome, truth: Truth, weight: Weights) -> Floats:
        """(b,) the figure under each row of weights (b, n); NaN where it does not exist."""
        if self.at_fpr is None:
            return np.asarray(weight @ outcome.right.astype(np.float32) / weight.sum(axis=1), dtype=np.float64)
        hits, false = Ranking(outcome.margins, truth.positive).curve(weight)
        with np.errstate(invalid="ignore", divide="ignore"):
            return recall_at(hits, false, self.at_fpr * false[:, -1])


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One setting on one set of images. change: of the objective against the current check, image by image."""

    value: Bounded
    change: Bounded


def measure(
    objective: Objective, outcomes: Sequence[Outcome], truth: Truth, current: Outcome, *, seed: int, level: float
) -> list[Estimate]:
    """Each outcome and its difference from `current`, on the same samples. level: the error of both bounds together."""
    sampled: list[list[Floats]] = [[] for _ in outcomes]
    base: list[Floats] = []
    for weight in weights(truth.clusters, resamples=RESAMPLES, seed=seed):
        base.append(objective.samples(current, truth, weight))
        for at, outcome in enumerate(outcomes):
            sampled[at].append(objective.samples(outcome, truth, weight))
    before, current_value = np.concatenate(base), objective.value(current, truth)
    estimates = []
    for outcome, blocks in zip(outcomes, sampled, strict=True):
        samples, value = np.concatenate(blocks), objective.value(outcome, truth)
        estimates.append(
            Estimate(
                value=bounded(value, samples, level=level / 2),
                change=bounded(value - current_value, samples - before, level=level / 2),
            )
        )
    return estimates
