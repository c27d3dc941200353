"""Boxes of several looks at one image, as one list: non-maximum suppression, or weighted boxes fusion.

Suppression keeps the best box of each heap as it is. Weighted boxes fusion (Solovyev, Wang, Gabruseva, "Weighted boxes
fusion: ensembling boxes from different object detection models", arXiv 1910.13302) averages the heap's corners by score
and lowers the score of what only some of the looks found. Both treat each label by itself. Boxes without a score count
1, so that the score of a fused one is the share of looks that found it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.relevance.regions import Region
from models.types import Box, FoundBoxes

How = Literal["nms", "wbf"]
OVERLAP = 0.55  # intersection over union of boxes that mean one thing, from the paper

Corners = NDArray[np.float64]  # (n, 4): x0, y0, x1, y1


def in_image(found: FoundBoxes, region: Region, size: tuple[int, int]) -> FoundBoxes:
    """Boxes found in a crop or tile, in pixels of the image (width, height) that `region` of it was cut from.

    The crop may have been resized before it was read: `found.size` is its size then.
    """
    across, down = region.width / found.size[0], region.height / found.size[1]
    boxes = tuple(
        replace(
            box,
            x0=region.x0 + box.x0 * across,
            y0=region.y0 + box.y0 * down,
            x1=region.x0 + box.x1 * across,
            y1=region.y0 + box.y1 * down,
        )
        for box in found.boxes
    )
    return FoundBoxes(boxes=boxes, problems=found.problems, size=size)


def merge_boxes(
    found: Sequence[FoundBoxes],
    *,
    how: How = "wbf",
    regions: Sequence[Region] | None = None,
    overlap: float = OVERLAP,
) -> FoundBoxes:
    """The boxes of one or more looks at one image, all in its pixels, as one list, the highest score first.

    regions: what each look saw of the image, so that "wbf" does not hold it against a box that others could not see
    it; None: all of it. The result does not depend on the order of the looks, and merging it again changes nothing.
    Raises ValueError when the looks count in pixels of images of different sizes.
    """
    if len({each.size for each in found}) != 1:
        raise ValueError("boxes can be merged only in pixels of one image: move them with in_image first")
    width, height = found[0].size
    seen = regions or [Region(x0=0, y0=0, x1=width, y1=height)] * len(found)
    boxes = [box for each in found for box in each.boxes]
    merged: list[Box] = []
    for label in sorted({box.label for box in boxes}):
        alike = sorted((box for box in boxes if box.label == label), key=_rank)
        merged += suppressed(alike, overlap) if how == "nms" else fused(alike, overlap, seen)
    problems = dict.fromkeys(problem for each in found for problem in each.problems)
    return FoundBoxes(boxes=tuple(sorted(merged, key=_rank)), problems=tuple(problems), size=found[0].size)


def suppressed(boxes: Sequence[Box], overlap: float) -> list[Box]:
    """Without the boxes that overlap a better one; boxes of one label, the best first."""
    corners = _corners(boxes)
    kept: list[int] = []
    for number in range(len(boxes)):
        if not kept or iou(corners[kept], corners[number]).max() <= overlap:
            kept.append(number)
    return [boxes[number] for number in kept]


@dataclass(kw_only=True, eq=False)
class _Heap:
    """Boxes that mean one thing. corners (n, 4), scores (n,)."""

    corners: Corners
    scores: NDArray[np.float64]

    def joined(self, other: _Heap) -> _Heap:
        return _Heap(
            corners=np.concatenate((self.corners, other.corners)), scores=np.concatenate((self.scores, other.scores))
        )

    @property
    def middle(self) -> Corners:
        """(4,), the corners' mean by score; rounding never takes it out of their hull."""
        weights = np.maximum(self.scores, np.finfo(float).tiny)
        mean = (self.corners * (weights / weights.sum())[:, None]).sum(0)
        return np.clip(mean, self.corners.min(0), self.corners.max(0))


def fused(boxes: Sequence[Box], overlap: float, seen: Sequence[Region]) -> list[Box]:
    """Weighted boxes fusion; boxes of one label, the best first. seen: what each look saw of the image.

    score: the mean of a heap's, times min(T, N) / N for T boxes of N looks, as in the paper; N counts those that saw
    the middle of the box. Fused boxes that came to overlap are fused again, which the paper leaves open.
    """
    heaps: list[_Heap] = []
    for corners, box in zip(_corners(boxes), boxes, strict=True):
        alone = _Heap(corners=corners[None], scores=np.array([_score(box)]))
        overlaps = iou(np.array([heap.middle for heap in heaps]).reshape(-1, 4), corners)
        best = int(overlaps.argmax()) if heaps else -1
        if best >= 0 and overlaps[best] > overlap:
            heaps[best] = heaps[best].joined(alone)
        else:
            heaps.append(alone)
    return [_box(heap, boxes[0].label, seen) for heap in _apart(heaps, overlap)]


def _apart(heaps: list[_Heap], overlap: float) -> list[_Heap]:
    """The heaps after those whose middles overlap have been joined, the two that overlap most first."""
    while len(heaps) > 1:
        middles = np.array([heap.middle for heap in heaps])
        overlaps = np.triu(iou(middles[:, None], middles), k=1)
        first, second = (int(at) for at in np.unravel_index(overlaps.argmax(), overlaps.shape))
        if overlaps[first, second] <= overlap:
            break
        heaps[first] = heaps[first].joined(heaps.pop(second))
    return heaps


def _box(heap: _Heap, label: str, seen: Sequence[Region]) -> Box:
    x0, y0, x1, y1 = heap.middle.tolist()
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    looks = max(1, sum(part.x0 <= x <= part.x1 and part.y0 <= y <= part.y1 for part in seen))
    score = float(heap.scores.mean()) * min(len(heap.scores), looks) / looks
    return Box(x0=x0, y0=y0, x1=x1, y1=y1, label=label, score=score)


def iou(boxes: Corners, other: Corners) -> NDArray[np.float64]:
    """Intersection over union of boxes (..., 4) with another or others (..., 4), broadcast; 0 for two without area."""
    sides = np.minimum(boxes[..., 2:], other[..., 2:]) - np.maximum(boxes[..., :2], other[..., :2])
    shared = sides.clip(min=0).prod(-1)
    union = _area(boxes) + _area(other) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def _area(boxes: Corners) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return area


def _corners(boxes: Sequence[Box]) -> Corners:
    return np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], dtype=float).reshape(-1, 4)


def _score(box: Box) -> float:
    return 1.0 if box.score is None else box.score


def _rank(box: Box) -> tuple[float, float, tuple[float, float, float, float], str]:
    """The best first: by score; among equal ones the tighter box."""
    corners = (box.x0, box.y0, box.x1, box.y1)
    return (-_score(box), (box.x1 - box.x0) * (box.y1 - box.y0), corners, box.label)
