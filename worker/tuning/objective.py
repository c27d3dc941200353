"""What is to be made better, and how sure one can be that it was: paired cluster bootstrap on one set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.promotion.bootstrap import Bounded, Ranking, Weights, bounded, recall_at, weights
from models.promotion.types import Bools, Floats

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a setting says of n images, and what that cost.

    margins: (n,) after all looks. right: (n,) whether the label is. tokens: (n,) visual tokens of all looks, with those
    that pointing cost. again: (n,) whether there was a second look.
    """

    margins: Floats
    right: Bools
    tokens: Floats
    again: Bools

    @property
    def mean_tokens(self) -> float:
        return float(self.tokens.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """positive: (n,) whether the image deserves a flag. clusters: images of one group are drawn together."""

    positive: Bools
    clusters: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Recall at a false-positive rate; at_fpr None: share of right labels, for a plain classification."""

    at_fpr: float | None

    @property
    def name(self) -> str:
        return "accuracy" if self.at_fpr is None else f"recall at {self.at_fpr:.3g} false positives"

    def value(self, outcome: Outcome, truth: Truth) -> float:
        return float(self.draws(outcome, truth, np.ones((1, len(outcome.margins)), dtype=np.float32))[0])

    def draws(self, outcome: Outcome, truth: Truth, weight: Weights) -> Floats:
        """(b,) the figure under each row of weights (b, n); NaN where it does not exist."""
        if self.at_fpr is None:
            return np.asarray(weight @ outcome.right.astype(np.float32) / weight.sum(axis=1), dtype=np.float64)
        hits, false = Ranking(outcome.margins, truth.positive).curve(weight)
        with np.errstate(invalid="ignore", divide="ignore"):
            return recall_at(hits, false, self.at_fpr * false[:, -1])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One setting on one set of images. change: of the objective, against the check as it stands, image by image."""

    value: Bounded
    change: Bounded


def measure(
    objective: Objective, outcomes: Sequence[Outcome], truth: Truth, standing: Outcome, *, seed: int, level: float
) -> list[Measured]:
    """Each outcome, and its difference from `standing`, on the same draws. level: the error of both bounds together."""
    found: list[list[Floats]] = [[] for _ in outcomes]
    base: list[Floats] = []
    for weight in weights(truth.clusters, resamples=RESAMPLES, seed=seed):
        base.append(objective.draws(standing, truth, weight))
        for at, outcome in enumerate(outcomes):
            found[at].append(objective.draws(outcome, truth, weight))
    before, stood = np.concatenate(base), objective.value(standing, truth)
    measured = []
    for outcome, blocks in zip(outcomes, found, strict=True):
        drawn, value = np.concatenate(blocks), objective.value(outcome, truth)
        measured.append(
            Measured(
                value=bounded(value, drawn, level=level / 2),
                change=bounded(value - stood, drawn - before, level=level / 2),
            )
        )
    return measured
