"""The cluster bootstrap: how far a difference between two models varies over images of the same kind.

Whole clusters are resampled (Field and Welsh 2007), since near-duplicates share their errors. Both models are measured
on each sample, so that what is hard for both cancels out. A sample is a weight for each image: sums over images are
products with the weights, and rankings are cumulated weights over an order that is sorted once.

Shapes: `[samples, images]` weights, `[samples, thresholds]` curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanfleet.models.promotion.types import Bools, Floats, Ints

Weights = NDArray[np.floating[Any]]

ELEMENTS = 200_000  # of one block of weights: it fits into the caches


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A difference, challenger minus champion, with one-sided bounds at the gate's level.

    Attributes:
        value: The difference on all images.
        low: Lower bound.
        high: Upper bound.
        bias: Mean of the samples minus `value`. All four are NaN where the figure does not exist.
    """

    value: float
    low: float
    high: float
    bias: float

    @property
    def known(self) -> bool:
        """Whether the figure exists."""
        return math.isfinite(self.low)

    def record(self) -> dict[str, float | None]:
        """Return the four numbers as plain JSON, with None for NaN."""
        found = asdict(self)
        return {name: value if math.isfinite(value) else None for name, value in found.items()}


def weights(clusters: Sequence[str], *, resamples: int, seed: int) -> Iterator[Weights]:
    """Resample the clusters, and yield how often each image's cluster was sampled.

    Args:
        clusters: `[images]` names; near-duplicates share one.
        resamples: Number of samples in all.
        seed: The same seed gives the same samples.

    Yields:
        Blocks `[samples, images]` float32, which holds sums exactly up to 16 million images.
    """
    _, codes = np.unique(np.asarray(clusters, dtype=np.str_), return_inverse=True)
    n_clusters = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    rows = max(1, ELEMENTS // len(codes))
    for start in range(0, resamples, rows):
        b = min(rows, resamples - start)
        sampled = rng.integers(n_clusters, size=(b, n_clusters)) + np.arange(b)[:, None] * n_clusters
        counts = np.bincount(sampled.ravel(), minlength=b * n_clusters).reshape(b, n_clusters)
        yield counts.astype(np.float32)[:, codes]


class Ranking:
    """One model's margins in descending order, ties together.

    Args:
        margins: `[images]` float64, in logits.
        positive: `[images]` bool, the true flags.
    """

    def __init__(self, margins: Floats, positive: Bools) -> None:
        self._order: Ints = np.argsort(-margins, kind="stable")
        ranked = margins[self._order]
        self._ends: Ints = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._positive = positive[self._order].astype(np.float32)

    def curve(self, weight: Weights) -> tuple[Weights, Weights]:
        """Return the cumulated weights of true and of false positives at each distinct threshold.

        Args:
            weight: `[samples, images]`.

        Returns:
            Two arrays `[samples, thresholds]`, thresholds in descending order.
        """
        ranked = weight[:, self._order]
        hits, flagged = np.cumsum(ranked * self._positive, axis=1), np.cumsum(ranked, axis=1)
        if len(self._ends) < hits.shape[1]:
            hits, flagged = hits[:, self._ends], flagged[:, self._ends]
        return hits, flagged - hits


def average_precision(hits: Weights, false: Weights) -> Floats:
    """Return average precision as scikit-learn defines it: sum of (R_t - R_t-1) P_t, without interpolation.

    Args:
        hits: `[samples, thresholds]`, cumulated weight of true positives.
        false: `[samples, thresholds]`, cumulated weight of false positives.

    Returns:
        `[samples]` float64 in [0, 1]; NaN in a sample without a positive.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = hits / np.maximum(hits + false, 1)  # nothing is gained before the first flag
        gained = np.diff(hits, axis=1, prepend=np.zeros_like(hits[:, :1]))
        return np.asarray(np.einsum("bt,bt->b", gained, precision, dtype=np.float64) / hits[:, -1])


def recall_at(hits: Weights, false: Weights, allowed: Weights) -> Floats:
    """Return recall where the weight of false positives reaches a limit, interpolated between two thresholds.

    Args:
        hits: `[samples, thresholds]`, cumulated weight of true positives.
        false: `[samples, thresholds]`, cumulated weight of false positives.
        allowed: `[samples]`, the limit on the weight of false positives.

    Returns:
        `[samples]` float64 in [0, 1]; NaN in a sample without a positive.
    """
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


def bounded(value: float, samples: Floats, *, level: float) -> Bounded:
    """Return percentile bounds of a difference.

    Args:
        value: The difference on all images.
        samples: `[samples]` float64; NaN, where a sample holds no positive, is left out.
        level: Error of each one-sided bound, in (0, 1).
    """
    seen = samples[np.isfinite(samples)]
    if not len(seen) or not np.isfinite(value):
        return Bounded(value=math.nan, low=math.nan, high=math.nan, bias=math.nan)
    low, high = np.quantile(seen, [level, 1 - level])
    return Bounded(value=value, low=float(low), high=float(high), bias=float(seen.mean()) - value)
