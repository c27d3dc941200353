"""The cluster bootstrap: how much a difference between two models would move on other images of the same kind.

Whole clusters are drawn (Field and Welsh 2007), since look-alikes err alike; both models are measured on each draw, so
that what is hard for both cancels out. A draw is a weight for each image; statistics that are sums of images are
products with the weights, and rankings are read from cumulated weights over an order that is sorted once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.promotion.types import Bools, Floats, Ints

Weights = NDArray[np.floating[Any]]

ELEMENTS = 200_000  # of one block of weights (draws x images): what caches hold, and less than a megabyte an array


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A difference, challenger less champion, with its one-sided bounds, each at the level of the gate.

    bias: by how much the mean of the draws lies above `value`. NaN throughout: the figure does not exist here.
    """

    value: float
    low: float
    high: float
    bias: float

    @property
    def known(self) -> bool:
        return math.isfinite(self.low)

    def record(self) -> dict[str, float | None]:
        """As plain JSON, which knows no NaN."""
        found = asdict(self)
        return {name: value if math.isfinite(value) else None for name, value in found.items()}


def weights(clusters: Sequence[str], *, resamples: int, seed: int) -> Iterator[Weights]:
    """Blocks (b, n) of weights, `resamples` rows in all: how often each image's cluster was drawn.

    In single precision, which holds their sums exactly up to 16 million images.
    """
    _, codes = np.unique(np.asarray(clusters, dtype=np.str_), return_inverse=True)
    n_clusters = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    rows = max(1, ELEMENTS // len(codes))
    for start in range(0, resamples, rows):
        b = min(rows, resamples - start)
        drawn = rng.integers(n_clusters, size=(b, n_clusters)) + np.arange(b)[:, None] * n_clusters
        counts = np.bincount(drawn.ravel(), minlength=b * n_clusters).reshape(b, n_clusters)
        yield counts.astype(np.float32)[:, codes]


class Ranking:
    """One model's margins from the highest down, ties together."""

    def __init__(self, margins: Floats, positive: Bools) -> None:
        self._order: Ints = np.argsort(-margins, kind="stable")
        ranked = margins[self._order]
        self._ends: Ints = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._positive = positive[self._order].astype(np.float32)

    def curve(self, weight: Weights) -> tuple[Weights, Weights]:
        """Cumulated weight (b, t) of true and of false positives at each distinct threshold."""
        ranked = weight[:, self._order]
        hits, flagged = np.cumsum(ranked * self._positive, axis=1), np.cumsum(ranked, axis=1)
        if len(self._ends) < hits.shape[1]:
            hits, flagged = hits[:, self._ends], flagged[:, self._ends]
        return hits, flagged - hits


def average_precision(hits: Weights, false: Weights) -> Floats:
    """(b,) as scikit-learn defines it: sum of (R_t - R_t-1) P_t, without interpolation. NaN without a positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = hits / np.maximum(hits + false, 1)  # where nothing is flagged yet, nothing is gained
        gained = np.diff(hits, axis=1, prepend=np.zeros_like(hits[:, :1]))
        return np.asarray(np.einsum("bt,bt->b", gained, precision, dtype=np.float64) / hits[:, -1])


def recall_at(hits: Weights, false: Weights, allowed: Weights) -> Floats:
    """(b,) recall where the weight of false positives reaches `allowed` (b,), on the line between two thresholds."""
    rows = np.arange(len(hits))
    hits = np.concatenate([np.zeros((len(hits), 1)), hits], axis=1)
    false = np.concatenate([np.zeros((len(false), 1)), false], axis=1)
    below = np.count_nonzero(false <= allowed[:, None], axis=1) - 1
    above = np.minimum(below + 1, hits.shape[1] - 1)
    step = false[rows, above] - false[rows, below]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(step > 0, (allowed - false[rows, below]) / step, 0.0)
        reached = hits[rows, below] + share * (hits[rows, above] - hits[rows, below])
        return np.asarray(reached / hits[:, -1])


def bounded(value: float, draws: Floats, *, level: float) -> Bounded:
    """Percentile bounds; draws in which the figure does not exist (no positive was drawn) are left out."""
    seen = draws[np.isfinite(draws)]
    if not len(seen) or not np.isfinite(value):
        return Bounded(value=math.nan, low=math.nan, high=math.nan, bias=math.nan)
    low, high = np.quantile(seen, [level, 1 - level])
    return Bounded(value=value, low=float(low), high=float(high), bias=float(seen.mean()) - value)
