"""Figures of an experiment, each with a 95 % interval: bootstrap of whole clusters and of seeds together, paired.

All arms share the draws, so that a difference between two is of the same images. Probabilities are the softmax of the
log-odds, without a calibrator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLES = 400
Weights = NDArray[np.int64]  # [images]: how often each is drawn
Statistic = Callable[[NDArray[np.float64], Weights], float]  # of one seed: ([images, labels], weights) -> figure


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """labels: [images]. clusters: [images], numbers. flags: [labels], which of them flag; none: a classification."""

    labels: NDArray[np.int64]
    clusters: NDArray[np.int64]
    flags: NDArray[np.bool_]

    @property
    def positive(self) -> NDArray[np.bool_]:
        return np.asarray(self.flags[self.labels])


class Bootstrap:
    """Draws of clusters that all arms share."""

    def __init__(self, truth: Truth, *, samples: int = SAMPLES) -> None:
        rng = np.random.default_rng(0)
        n = int(truth.clusters.max()) + 1
        counts = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(samples)]
        self.weights: list[Weights] = [each[truth.clusters] for each in counts]
        self._dice = rng.random((samples, 1000))
        self.whole: Weights = np.ones(len(truth.labels), np.int64)

    def interval(self, arms: Sequence[Sequence[NDArray[np.float64]]], statistic: Statistic) -> dict[str, Any]:
        """Return the figure of the first arm, less that of the second if there is one.

        arms: of each, [images, labels] for each seed. With equal numbers of seeds these are drawn in pairs.
        """
        values = [self._mean(arm, statistic, self.whole, None) for arm in arms]
        drawn = []
        for weights, dice in zip(self.weights, self._dice, strict=True):
            drawn.append(self._less([self._mean(arm, statistic, weights, dice) for arm in arms]))
        finite = [value for value in drawn if np.isfinite(value)]
        value = self._less(values)
        if not np.isfinite(value) or len(finite) < len(drawn) / 2:
            return {"value": None, "low": None, "high": None}
        low, high = np.quantile(finite, (0.025, 0.975))
        return {"value": round(value, 5), "low": round(float(low), 5), "high": round(float(high), 5)}

    @staticmethod
    def _less(values: Sequence[float]) -> float:
        return values[0] - (values[1] if len(values) > 1 else 0.0)

    @staticmethod
    def _mean(
        arm: Sequence[NDArray[np.float64]], statistic: Statistic, weights: Weights, dice: NDArray[np.float64] | None
    ) -> float:
        at = range(len(arm)) if dice is None else [int(value * len(arm)) for value in dice[: len(arm)]]
        seen: dict[int, float] = {}
        for seed in at:
            if seed not in seen:
                seen[seed] = statistic(arm[seed], weights)
        return float(np.mean([seen[seed] for seed in at]))


def statistics(truth: Truth) -> Mapping[str, Statistic]:
    """Return the figures of a check: accuracy, and those of flag or not where labels flag."""
    found: dict[str, Statistic] = {"accuracy": lambda odds, w: _share(odds.argmax(1) == truth.labels, w)}
    if truth.flags.any() and not truth.flags.all():
        positive = truth.positive
        found |= {
            "precision": lambda odds, w: _share(positive[_flagged(odds, truth)], w[_flagged(odds, truth)]),
            "recall": lambda odds, w: _share(_flagged(odds, truth)[positive], w[positive]),
            "average_precision": lambda odds, w: _average_precision(odds, truth, w),
            "auroc": lambda odds, w: _auroc(odds, truth, w),
            "ece": lambda odds, w: _ece(odds, truth, w),
        }
    return found


def margins(odds: NDArray[np.float64], flags: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return [images] log-odds of the flagging labels against the others."""
    return np.asarray(np.logaddexp.reduce(odds[:, flags], axis=1) - np.logaddexp.reduce(odds[:, ~flags], axis=1))


def confusion(odds: Sequence[NDArray[np.float64]], truth: Truth) -> list[list[int]]:
    """Rows: truth; columns: answer; all seeds together."""
    k = len(truth.flags)
    table = np.zeros((k, k), int)
    for one in odds:
        np.add.at(table, (truth.labels, one.argmax(1)), 1)
    return [[int(n) for n in row] for row in table]


def reliability(odds: Sequence[NDArray[np.float64]], truth: Truth, *, bins: int = 10) -> list[list[float]]:
    """Return [mean probability, share of flags, images] of each bin of equal mass, all seeds together."""
    if not truth.flags.any():
        return []
    p = np.concatenate([_probability(one, truth) for one in odds])
    hit = np.concatenate([truth.positive for _ in odds])
    parts = np.array_split(np.argsort(p, kind="stable"), bins)
    return [[float(p[at].mean()), float(hit[at].mean()), len(at)] for at in parts if len(at)]


def _flagged(odds: NDArray[np.float64], truth: Truth) -> NDArray[np.bool_]:
    return np.asarray(margins(odds, truth.flags) > 0)


def _share(hits: NDArray[np.bool_], weights: Weights) -> float:
    total = weights.sum()
    return float((hits * weights).sum() / total) if total else float("nan")


def _probability(odds: NDArray[np.float64], truth: Truth) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(margins(odds, truth.flags), -60, 60))))


def _ranking(odds: NDArray[np.float64], truth: Truth, w: Weights) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the weights of positives and of negatives above each threshold; equal margins share one."""
    found = margins(odds, truth.flags)
    order = np.argsort(-found, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(found[order])), len(order) - 1)
    hits, weights = truth.positive[order], w[order]
    return np.cumsum(weights * hits)[ends], np.cumsum(weights * ~hits)[ends]


def _auroc(odds: NDArray[np.float64], truth: Truth, w: Weights) -> float:
    tp, fp = _ranking(odds, truth, w)
    if not (tp[-1] and fp[-1]):
        return float("nan")
    return float(np.trapezoid(np.append(0, tp), np.append(0, fp)) / (tp[-1] * fp[-1]))


def _average_precision(odds: NDArray[np.float64], truth: Truth, w: Weights) -> float:
    tp, fp = _ranking(odds, truth, w)
    if not (tp[-1] and fp[-1]):
        return float("nan")
    return float((np.diff(tp, prepend=0) / tp[-1] * tp / np.maximum(tp + fp, 1)).sum())


def _ece(odds: NDArray[np.float64], truth: Truth, w: Weights, *, bins: int = 15) -> float:
    """As `models.adapters.metrics.calibration_error`, for many draws."""
    p, hit = np.repeat(_probability(odds, truth), w), np.repeat(truth.positive, w)
    order = np.argsort(p, kind="stable")
    edges = np.unique(np.round(np.arange(bins) * len(p) / bins).astype(int))
    return float(np.abs(np.add.reduceat((p - hit)[order], edges)).sum() / len(p))
