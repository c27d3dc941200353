"""Boxes of a verdict on a thumbnail, and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ((255, 255, 255), (179, 38, 30))  # a light line around a dark one: seen on any ground
Boxes = Sequence[Mapping[str, Any]]


def draw_boxes(thumbnail: Image.Image, boxes: Boxes, *, size: tuple[int, int]) -> None:
    """Outline boxes in place. size: (width, height) of the image whose pixels they count in."""
    across, down = thumbnail.width / size[0], thumbnail.height / size[1]
    draw = ImageDraw.Draw(thumbnail)
    for box in boxes:
        left, top, right, bottom = box["x0"] * across, box["y0"] * down, box["x1"] * across, box["y1"] * down
        for width, colour in zip((3, 1), COLOURS, strict=True):
            outer = (max(left, 0), max(top, 0), min(right, thumbnail.width - 1), min(bottom, thumbnail.height - 1))
            if outer[0] <= outer[2] and outer[1] <= outer[3]:
                draw.rectangle(outer, outline=colour, width=width)


def boxes_in_words(boxes: Boxes | None) -> str | None:
    """What was found, and how often; None where nobody was asked.

    >>> boxes_in_words([{"label": "gun"}, {"label": "gun"}, {"label": "knife"}]), boxes_in_words([])
    ('2 gun, 1 knife', '0')
    """
    if boxes is None:
        return None
    counts = Counter(str(box["label"]) for box in boxes)
    return ", ".join(f"{n} {label}" for label, n in sorted(counts.items())) or "0"
