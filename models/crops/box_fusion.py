"""Merge boxes from several readings of one image: non-maximum suppression, or weighted boxes fusion.

Suppression keeps the best box of each cluster unchanged. Weighted boxes fusion (Solovyev, Wang, Gabruseva, "Weighted
boxes fusion: ensembling boxes from different object detection models", arXiv 1910.13302) averages the cluster's
corners by score, and lowers the score of boxes that only some readings found. Both treat each label separately. A box
without a score counts as 1, so a fused score is the share of readings that found the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scanfleet.models.relevance.regions import Region
from scanfleet.models.types import Box, FoundBoxes

How = Literal["nms", "wbf"]
OVERLAP = 0.55  # intersection over union of boxes that mean one object, from the paper

Corners = NDArray[np.float64]  # [boxes, 4]: x0, y0, x1, y1


def in_image(found: FoundBoxes, region: Region, size: tuple[int, int]) -> FoundBoxes:
    """Move boxes from a crop or tile into the whole image.

    Args:
        found: boxes in pixels of `found.size`, the size at which the crop was read.
        region: the crop in pixels of the image.
        size: (width, height) of the image.

    Returns:
        The same boxes in pixels of the image.
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
    """Merge the boxes of one or more readings of an image into one list, the highest score first.

    The result does not depend on the order of the readings, and merging it again changes nothing.

    Args:
        found: the boxes of each reading, all in pixels of the image.
        how: "nms" or "wbf".
        regions: the part of the image that each reading saw, so that "wbf" does not count a box against readings that
            could not see it; None: the whole image.
        overlap: intersection over union, 0..1, above which two boxes mean one object.

    Raises:
        ValueError: the readings are in pixels of images of different sizes.
    """
    if len({each.size for each in found}) != 1:
        raise ValueError("boxes can be merged only in pixels of one image: convert them with in_image first")
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
    """Return the boxes that overlap no better one; `boxes` have one label and are sorted, the best first."""
    corners = _corners(boxes)
    kept: list[int] = []
    for number in range(len(boxes)):
        if not kept or iou(corners[kept], corners[number]).max() <= overlap:
            kept.append(number)
    return [boxes[number] for number in kept]


@dataclass(kw_only=True, eq=False)
class _Cluster:
    """Boxes that mean one object.

    Attributes:
        corners: [boxes, 4] float64: x0, y0, x1, y1.
        scores: [boxes] float64.
    """

    corners: Corners
    scores: NDArray[np.float64]

    def joined(self, other: _Cluster) -> _Cluster:
        return _Cluster(
            corners=np.concatenate((self.corners, other.corners)), scores=np.concatenate((self.scores, other.scores))
        )

    @property
    def middle(self) -> Corners:
        """The mean of the corners by score, [4]; rounding never moves it outside their hull."""
        weights = np.maximum(self.scores, np.finfo(float).tiny)
        mean = (self.corners * (weights / weights.sum())[:, None]).sum(0)
        return np.clip(mean, self.corners.min(0), self.corners.max(0))


def fused(boxes: Sequence[Box], overlap: float, seen: Sequence[Region]) -> list[Box]:
    """Fuse boxes of one label by weighted boxes fusion.

    A fused score is the cluster's mean times min(T, N) / N for T boxes of N readings, as in the paper. N counts the
    readings that saw the middle of the box. Fused boxes that overlap are fused again, which the paper leaves open.

    Args:
        boxes: of one label, the best first.
        overlap: intersection over union above which two boxes mean one object.
        seen: the part of the image that each reading saw.
    """
    clusters: list[_Cluster] = []
    for corners, box in zip(_corners(boxes), boxes, strict=True):
        alone = _Cluster(corners=corners[None], scores=np.array([_score(box)]))
        overlaps = iou(np.array([cluster.middle for cluster in clusters]).reshape(-1, 4), corners)
        best = int(overlaps.argmax()) if clusters else -1
        if best >= 0 and overlaps[best] > overlap:
            clusters[best] = clusters[best].joined(alone)
        else:
            clusters.append(alone)
    return [_box(cluster, boxes[0].label, seen) for cluster in _apart(clusters, overlap)]


def _apart(clusters: list[_Cluster], overlap: float) -> list[_Cluster]:
    """Join clusters whose middles overlap, the two with the largest overlap first."""
    while len(clusters) > 1:
        middles = np.array([cluster.middle for cluster in clusters])
        overlaps = np.triu(iou(middles[:, None], middles), k=1)
        first, second = (int(at) for at in np.unravel_index(overlaps.argmax(), overlaps.shape))
        if overlaps[first, second] <= overlap:
            break
        clusters[first] = clusters[first].joined(clusters.pop(second))
    return clusters


def _box(cluster: _Cluster, label: str, seen: Sequence[Region]) -> Box:
    x0, y0, x1, y1 = cluster.middle.tolist()
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    readings = max(1, sum(part.x0 <= x <= part.x1 and part.y0 <= y <= part.y1 for part in seen))
    score = float(cluster.scores.mean()) * min(len(cluster.scores), readings) / readings
    return Box(x0=x0, y0=y0, x1=x1, y1=y1, label=label, score=score)


def iou(boxes: Corners, other: Corners) -> NDArray[np.float64]:
    """Compute the intersection over union of boxes, broadcast over the leading axes.

    Args:
        boxes: [..., 4] float64: x0, y0, x1, y1.
        other: [..., 4] float64.

    Returns:
        [...] float64 in 0..1; 0 for two boxes without area.
    """
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
    """Sort key, the best box first: by score, and of equal scores the smaller box."""
    corners = (box.x0, box.y0, box.x1, box.y1)
    return (-_score(box), (box.x1 - box.x0) * (box.y1 - box.y0), corners, box.label)
