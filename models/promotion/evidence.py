"""Every difference between the two models with its bounds, from one set of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scanfleet.models.promotion.bootstrap import (
    Bounded,
    Ranking,
    Weights,
    average_precision,
    bounded,
    recall_at,
    weights,
)
from scanfleet.models.promotion.types import Bools, Floats, Limits, Paired, Side

BINS = 15  # of equal mass, for the calibration error

Curve = tuple[Weights, Weights]  # of true and of false positives
Statistic = Callable[[Weights], Floats]  # [samples, images] weights -> a difference for each sample


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Differences, challenger minus champion; None where a figure does not exist for these models.

    Attributes:
        quality: Average precision; of a plain classification accuracy.
        reach: Recall at the champion's false-positive rate; of a plain classification the mean recall of its labels.
        accuracy: Share of images that are right.
        recent: The same among images labelled since the champion's training.
        brier: Brier score.
        calibration_error: Expected calibration error.
    """

    quality: Bounded
    reach: Bounded
    accuracy: Bounded
    recent: Bounded | None
    brier: Bounded | None
    calibration_error: Bounded | None


def collect_evidence(paired: Paired, *, limits: Limits, seed: int, resamples: int) -> Evidence:
    """Resample the clusters and measure both models on each sample.

    Args:
        paired: Both models on the golden set.
        limits: Only `level` is used.
        seed: The same seed gives the same evidence.
        resamples: Number of samples.
    """
    statistics = _statistics(paired)
    samples: dict[str, list[Floats]] = {name: [] for name in statistics}
    for weight in weights(paired.clusters, resamples=resamples, seed=seed):
        for name, statistic in statistics.items():
            samples[name].append(statistic(weight))
    whole = np.ones((1, len(paired)))
    found = {
        name: bounded(float(statistic(whole)[0]), np.concatenate(samples[name]), level=limits.level)
        for name, statistic in statistics.items()
    }
    return Evidence(
        quality=found["quality"],
        reach=found["reach"],
        accuracy=found["accuracy"],
        recent=found.get("recent"),
        brier=found.get("brier"),
        calibration_error=found.get("calibration_error"),
    )


def _statistics(paired: Paired) -> dict[str, Statistic]:
    champion, challenger = paired.champion, paired.challenger
    gained = paired.right(challenger).astype(np.float64) - paired.right(champion)
    statistics: dict[str, Statistic] = {"accuracy": _mean_of(gained)}
    if paired.recent.any():
        statistics["recent"] = _mean_of(gained, among=paired.recent)
    if paired.flags:
        curves = _Curves(paired)
        statistics |= {"quality": curves.precision_gained, "reach": curves.recall_gained}
    else:
        statistics |= {"quality": _mean_of(gained), "reach": _mean_recall(paired, gained)}
    theirs, ours = _squared_errors(paired, champion), _squared_errors(paired, challenger)
    if theirs is not None and ours is not None:
        statistics["brier"] = _mean_of(ours - theirs)
        statistics["calibration_error"] = _calibration_gap(paired)
    return statistics


def _mean_of(per_image: Floats, *, among: Bools | None = None) -> Statistic:
    inside = np.ones(len(per_image)) if among is None else among.astype(np.float64)

    def mean(weight: Weights) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(weight @ (per_image * inside) / (weight @ inside))

    return mean


class _Curves:
    """The ranking figures; both come from the same curves, which are made once for each block of samples."""

    def __init__(self, paired: Paired) -> None:
        positive = paired.positive
        self._champion = Ranking(paired.champion.margins, positive)
        self._challenger = Ranking(paired.challenger.margins, positive)
        flagged = paired.champion.margins >= paired.reference
        self._false = (flagged & ~positive).astype(np.float32)
        self._of: Weights | None = None
        self._curves: tuple[Curve, Curve] | None = None

    def precision_gained(self, weight: Weights) -> Floats:
        champion, challenger = self._read(weight)
        return average_precision(*challenger) - average_precision(*champion)

    def recall_gained(self, weight: Weights) -> Floats:
        """Read both models at the champion's rate and from their curves alike: equal models differ by nothing."""
        champion, challenger = self._read(weight)
        allowed = weight @ self._false
        return recall_at(*challenger, allowed) - recall_at(*champion, allowed)

    def _read(self, weight: Weights) -> tuple[Curve, Curve]:
        if self._curves is None or self._of is not weight:
            self._curves = self._champion.curve(weight), self._challenger.curve(weight)
            self._of = weight
        return self._curves


def _mean_recall(paired: Paired, gained: Floats) -> Statistic:
    """Return the mean over labels of the difference in recall; a label that was not sampled does not count."""
    of_label = paired.truth[:, None] == np.arange(len(paired.question.labels))[None, :]
    members, change = of_label.astype(np.float64), of_label * gained[:, None]

    def mean(weight: Weights) -> Floats:
        size = weight @ members
        change_of = np.divide(weight @ change, size, out=np.zeros_like(size), where=size > 0)
        return np.asarray(change_of.sum(axis=1) / (size > 0).sum(axis=1))

    return mean


def _squared_errors(paired: Paired, side: Side) -> Floats | None:
    probabilities = side.probabilities()
    return None if probabilities is None else np.asarray((probabilities - paired.event(side)) ** 2)


def _calibration_gap(paired: Paired) -> Statistic:
    champion, challenger = _binned_errors(paired, paired.champion), _binned_errors(paired, paired.challenger)

    def gap(weight: Weights) -> Floats:
        ours, theirs = (np.abs(weight @ errors).sum(axis=1) for errors in (challenger, champion))
        return np.asarray((ours - theirs) / weight.sum(axis=1))

    return gap


def _binned_errors(paired: Paired, side: Side) -> Floats:
    """Return `[images, BINS]`: probability minus outcome, in the column of the image's bin among all images."""
    probabilities = side.probabilities()
    assert probabilities is not None
    n = len(probabilities)
    order = np.argsort(probabilities, kind="stable")
    edges = np.array([round(i * n / BINS) for i in range(BINS + 1)])
    bins = np.empty(n, dtype=np.int64)
    bins[order] = np.searchsorted(edges, np.arange(n), side="right") - 1
    errors = np.zeros((n, BINS))
    errors[np.arange(n), bins] = probabilities - paired.event(side)
    return errors
