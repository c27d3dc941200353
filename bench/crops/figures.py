"""Gain and cost of a crop pass, from the margins of both passes over the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from scanfleet.models.crops.box_fusion import How, merge_boxes
from scanfleet.models.relevance.regions import Region
from scanfleet.models.types import Box, FoundBoxes

FALSE_POSITIVES = 0.05  # share of the images without a target that may be flagged
RESAMPLES = 2000
HELD = 0.75  # of a target's area that a region must contain to hold it

Margins = NDArray[np.float64]
Truth = NDArray[np.bool_]


def recall_at(margins: Margins, truth: Truth, *, false_positives: float = FALSE_POSITIVES) -> float:
    """Return the share of the targets above the margin that at most `false_positives` of the others exceed."""
    others = np.sort(margins[~truth])[::-1]
    allowed = int(false_positives * len(others))
    return float((margins[truth] > others[allowed]).mean())


def auroc(margins: Margins, truth: Truth) -> float:
    return float(roc_auc_score(truth, margins))


def accuracy(margins: Margins, truth: Truth) -> float:
    """Return the accuracy by the sign of the margin."""
    return float(((margins > 0) == truth).mean())


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change in percentage points; low and high: paired bootstrap over images, 95 %."""

    points: float
    low: float
    high: float


def change(
    figure: Callable[[Margins, Truth], float], before: Margins, after: Margins, truth: Truth, *, seed: int = 0
) -> Change:
    """Return the change of a figure between two sets of margins for the same images."""
    rng = np.random.default_rng(seed)
    with_target, without = np.flatnonzero(truth), np.flatnonzero(~truth)
    resampled = []
    for _ in range(RESAMPLES):  # resample both kinds separately: their numbers are fixed by the benchmark
        rows = np.concatenate([rng.choice(with_target, len(with_target)), rng.choice(without, len(without))])
        resampled.append(figure(after[rows], truth[rows]) - figure(before[rows], truth[rows]))
    low, high = np.percentile(resampled, [2.5, 97.5])
    points = figure(after, truth) - figure(before, truth)
    return Change(points=100 * points, low=100 * float(low), high=100 * float(high))


def holds(region: Region, box: Box) -> bool:
    """Return True if a region contains HELD of a target's area, which probably includes the identifying detail."""
    across = min(region.x1, box.x1) - max(region.x0, box.x0)
    down = min(region.y1, box.y1) - max(region.y0, box.y0)
    area = (box.x1 - box.x0) * (box.y1 - box.y0)
    return max(0.0, across) * max(0.0, down) >= HELD * area


def share(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if hits else 0.0


def voted(regions: Sequence[Region], size: tuple[int, int], how: How) -> Region | None:
    """Fuse the regions of several maps as boxes, and return the one that most of them found."""
    boxes = [[Box(x0=r.x0, y0=r.y0, x1=r.x1, y1=r.y1, label="")] for r in regions]
    if not boxes:
        return None
    readings = [FoundBoxes(boxes=tuple(own), problems=(), size=size) for own in boxes]
    best = merge_boxes(readings, how=how).boxes[0]
    return Region(x0=round(best.x0), y0=round(best.y0), x1=round(best.x1), y1=round(best.y1))
