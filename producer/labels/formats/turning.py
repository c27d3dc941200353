"""The straight boxes around shapes that are turned around their middle, as CVAT has them.

CVAT's exports to COCO and VOC keep a turned box as it was before, and the turn as its attribute `rotation`.
"""

from __future__ import annotations

import math

from scanfleet.producer.labels.formats.entries import Attributes, RawBox, Size, box_of, number_of
from scanfleet.producer.sources.manifest import MalformedLineError

ROTATION = "rotation"


def turned(box: RawBox, degrees: float, size: Size | None, *, ellipse: bool = False) -> RawBox:
    """Return the box around a turned one, or around the ellipse in it, clipped to the image if its size is known.

    Raises MalformedLineError if nothing is left.
    """
    angle = math.radians(degrees % 360)
    if angle == 0:
        return box
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    across, down = (box.x1 - box.x0) / 2, (box.y1 - box.y0) / 2
    parts = (
        (across * math.cos(angle), down * math.sin(angle)),
        (across * math.sin(angle), down * math.cos(angle)),
    )
    half_width, half_height = (math.hypot(*one) if ellipse else sum(map(abs, one)) for one in parts)
    width, height = size or (math.inf, math.inf)
    least = 0.0 if size else -math.inf
    return box_of(
        (
            max(x - half_width, least),
            max(y - half_height, least),
            min(x + half_width, width),
            min(y + half_height, height),
        ),
        box.label,
    )


def taken_rotation(attributes: Attributes | None) -> float:
    """Remove the turn from the attributes of a box, and return it in degrees; 0 if they say none."""
    try:
        degrees = number_of((attributes or {}).get(ROTATION), ROTATION)
    except MalformedLineError:
        return 0.0
    if attributes is not None:
        del attributes[ROTATION]
    return degrees
