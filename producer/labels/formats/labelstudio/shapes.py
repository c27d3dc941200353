"""The straight boxes around the shapes of Label Studio, whose coordinates are percent of the image's size."""

from __future__ import annotations

import json
import math
from typing import Any

from scanfleet.producer.labels.formats.entries import RawBox, Size, bounds, box_of, number_of
from scanfleet.producer.sources.manifest import MalformedLineError

GEOMETRY = {"x", "y", "points", "vertices", "rle", "radiusX", "width", "height"}


def shape_of(value: dict[str, Any]) -> str:
    """Return the shape of a region as text, to tell it from others."""
    return json.dumps({key: value[key] for key in sorted(GEOMETRY & value.keys())})


def box_around(value: dict[str, Any], label: str, size: Size | None) -> RawBox | None:
    """Return the box around a shape; None if it has none (brush, key point). Raises MalformedLineError."""
    points = value.get("points", value.get("vertices"))
    if isinstance(points, list) and points:
        return _within([_point(one) for one in points], label)
    if "rle" in value or "x" not in value:
        return None
    if "radiusX" in value:
        return _ellipse(value, label, size)
    if "height" not in value and "rectanglelabels" not in value and "labels" not in value:
        return None
    x, y, width, height = (number_of(value.get(side), side) / 100 for side in ("x", "y", "width", "height"))
    box = box_of((x, y, x + width, y + height), label, unit="share")
    angle, (w, h) = _angle(value, size)
    if angle == 0:
        return box
    # It is turned around its corner, in pixels: a share of the width is not as long as one of the height.
    across = (width * w * math.cos(angle) / w, width * w * math.sin(angle) / h)
    down = (-height * h * math.sin(angle) / w, height * h * math.cos(angle) / h)
    corners = [(x, y), (x + across[0], y + across[1]), (x + down[0], y + down[1])]
    return _within([*corners, (x + across[0] + down[0], y + across[1] + down[1])], label)


def _ellipse(value: dict[str, Any], label: str, size: Size | None) -> RawBox:
    x, y, across, down = (number_of(value.get(side), side) / 100 for side in ("x", "y", "radiusX", "radiusY"))
    if across <= 0 or down <= 0:
        raise MalformedLineError(f"an ellipse with the radii {across:g} {down:g} has no area")
    angle, (w, h) = _angle(value, size)
    half_width = math.hypot(across * w * math.cos(angle), down * h * math.sin(angle)) / w
    half_height = math.hypot(across * w * math.sin(angle), down * h * math.cos(angle)) / h
    return _within([(x - half_width, y - half_height), (x + half_width, y + half_height)], label)


def _angle(value: dict[str, Any], size: Size | None) -> tuple[float, Size]:
    """Return the angle in radians, and the size of the image. Raises MalformedLineError."""
    degrees = number_of(value.get("rotation") or 0, "rotation") % 360
    if degrees and size is None:
        raise MalformedLineError("a rotated shape, but original_width and original_height are missing")
    return math.radians(degrees), size or (1.0, 1.0)


def _point(value: object) -> tuple[float, float]:
    if isinstance(value, dict):
        value = [value.get("x"), value.get("y")]
    if not isinstance(value, list) or len(value) != 2:
        raise MalformedLineError("a point is not a pair of numbers")
    return number_of(value[0], "x") / 100, number_of(value[1], "y") / 100


def _within(points: list[tuple[float, float]], label: str) -> RawBox:
    """Return the bounds of a shape, clipped to the image, since turned shapes stick out of it."""
    clipped = [(min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)) for x, y in points]
    return bounds(clipped, label, unit="share")
