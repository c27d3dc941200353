"""Brings boxes from the image as it was labelled to the pixels of the upright image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scanfleet.producer.labels.formats.entries import RawBox, Size
from scanfleet.producer.sources.manifest import MalformedLineError

SLACK = 1.0  # pixels that a box may lie outside the image, since other tools round differently

Point = tuple[float, float]  # shares of width and height
TURNS: dict[int, Callable[[float, float], Point]] = {
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}  # by EXIF orientation, those that swap width and height: from the stored picture to the upright one


def turn_of(size: Size | None, upright: Size, orientation: int, where: str) -> int | None:
    """Return the EXIF orientation to apply to boxes; None if they are upright.

    size: of the image when it was labelled. Raises MalformedLineError if it is not this image's, at any scale.
    """
    if size is None or _same_shape(size, upright):
        return None
    if orientation in TURNS and _same_shape(size, upright[::-1]):
        return orientation
    width, height = upright
    raise MalformedLineError(
        f"the labels are about an image of {size[0]:g} x {size[1]:g} pixels, but {where} has {width:g} x {height:g}"
    )


def _same_shape(one: Size, other: Size) -> bool:
    """Return True if one size is the other at some scale; rounded to whole pixels, it may be off by one."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def in_pixels(box: RawBox, upright: Size, *, size: Size | None = None, turn: int | None = None) -> dict[str, Any]:
    """Return a box in pixels of the upright image, rounded to hundredths.

    Raises MalformedLineError if it lies outside the image.
    """
    frame = size or upright
    x_unit, y_unit = frame if box.unit == "share" else (1, 1)
    sides = (box.x0 * x_unit, box.y0 * y_unit, box.x1 * x_unit, box.y1 * y_unit)
    width, height = frame
    if min(sides[:2]) < -SLACK or sides[2] > width + SLACK or sides[3] > height + SLACK:
        words = " ".join(f"{side:g}" for side in sides)
        raise MalformedLineError(f"the box {words} lies outside the image, which has {width:g} x {height:g} pixels")
    corners = [(sides[0] / width, sides[1] / height), (sides[2] / width, sides[3] / height)]
    if turn is not None:
        corners = [TURNS[turn](*corner) for corner in corners]
    xs, ys = zip(*corners, strict=True)
    x0, x1 = (round(min(max(x, 0), 1) * upright[0], 2) for x in sorted(xs))
    y0, y1 = (round(min(max(y, 0), 1) * upright[1], 2) for y in sorted(ys))
    if x1 <= x0 or y1 <= y0:
        raise MalformedLineError("a box has no area within the image")
    found: dict[str, Any] = {"x0": float(x0), "y0": float(y0), "x1": float(x1), "y1": float(y1), "label": box.label}
    return found | {"attributes": box.attributes} if box.attributes else found
