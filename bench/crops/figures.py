"""What a second look gains and costs, from the margins of both looks at the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.crops.box_fusion import How, merge_boxes
from models.relevance.regions import Region
from models.types import Box, FoundBoxes

FALSE_POSITIVES = 0.05  # share of the images without a target that may be flagged
RESAMPLES = 2000
HELD = 0.75  # of a target's area, from which a region holds it

Margins = NDArray[np.float64]
Truth = NDArray[np.bool_]


def recall_at(margins: Margins, truth: Truth, *, false_positives: float = FALSE_POSITIVES) -> float:
    """Share of the targets over the lowest margin that so few of the others exceed."""
    others = np.sort(margins[~truth])[::-1]
    allowed = int(false_positives * len(others))
    return float((margins[truth] > others[allowed]).mean())


def auroc(margins: Margins, truth: Truth) -> float:
    return float(roc_auc_score(truth, margins))


def accuracy(margins: Margins, truth: Truth) -> float:
    """By the sign of the margin."""
    return float(((margins > 0) == truth).mean())


@dataclass(frozen=True, kw_only=True)
class Change:
    """In points of a hundred; low and high: paired bootstrap over images, 95 %."""

    points: float
    low: float
    high: float


def change(
    figure: Callable[[Margins, Truth], float], before: Margins, after: Margins, truth: Truth, *, seed: int = 0
) -> Change:
    """How a figure moves when the same images are answered by other margins."""
    rng = np.random.default_rng(seed)
    with_target, without = np.flatnonzero(truth), np.flatnonzero(~truth)
    drawn = []
    for _ in range(RESAMPLES):  # both kinds by themselves: their numbers are ours to choose
        rows = np.concatenate([rng.choice(with_target, len(with_target)), rng.choice(without, len(without))])
        drawn.append(figure(after[rows], truth[rows]) - figure(before[rows], truth[rows]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    points = figure(after, truth) - figure(before, truth)
    return Change(points=100 * points, low=100 * float(low), high=100 * float(high))


def holds(region: Region, box: Box) -> bool:
    """Whether a region shows a target: most of its area, so that what tells it apart is likely there."""
    across = min(region.x1, box.x1) - max(region.x0, box.x0)
    down = min(region.y1, box.y1) - max(region.y0, box.y0)
    area = (box.x1 - box.x0) * (box.y1 - box.y0)
    return max(0.0, across) * max(0.0, down) >= HELD * area


def share(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if hits else 0.0


def voted(regions: Sequence[Region], size: tuple[int, int], how: How) -> Region | None:
    """Where most maps of an image point: their regions fused as boxes, the one that most of them found."""
    boxes = [[Box(x0=r.x0, y0=r.y0, x1=r.x1, y1=r.y1, label="")] for r in regions]
    if not boxes:
        return None
    looks = [FoundBoxes(boxes=tuple(own), problems=(), size=size) for own in boxes]
    best = merge_boxes(looks, how=how).boxes[0]
    return Region(x0=round(best.x0), y0=round(best.y0), x1=round(best.x1), y1=round(best.y1))
