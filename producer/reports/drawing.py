"""Boxes of a verdict, and its second look, on a thumbnail and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from scanfleet.checks.crop_result import CropResult

# A light line around a dark one: seen on any ground.
COLOURS = ((255, 255, 255), (179, 38, 30))
LOOKED_AT = ((255, 255, 255), (0, 90, 181))  # what was looked at once more
Boxes = Sequence[Mapping[str, Any]]


def draw_boxes(
    thumbnail: Image.Image, boxes: Boxes, *, size: tuple[int, int], colours: Sequence[tuple[int, int, int]] = COLOURS
) -> None:
    """Outline boxes in place. size: (width, height) of the image whose pixels they count in."""
    across, down = thumbnail.width / size[0], thumbnail.height / size[1]
    draw = ImageDraw.Draw(thumbnail)
    for box in boxes:
        left, top, right, bottom = box["x0"] * across, box["y0"] * down, box["x1"] * across, box["y1"] * down
        for width, colour in zip((3, 1), colours, strict=True):
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


def draw_crop(thumbnail: Image.Image, look: CropResult | None, *, size: tuple[int, int]) -> None:
    """Outline in place what was looked at once more; as `draw_boxes`."""
    if look is not None and look.box is not None:
        corners = dict(zip(("x0", "y0", "x1", "y1"), look.box, strict=True))
        draw_boxes(thumbnail, [corners], size=size, colours=LOOKED_AT)


SKIPPED = {
    "cap": "no crop: the check's max_extra was spent",
    "diffuse": "no crop: nothing stood out",
    "whole": "no crop: the region is the whole image",
    "enough": "no crop: the first pass saw every pixel",
}


def crop_in_words(look: CropResult | None) -> str | None:
    """Both margins, or why there is one; None where the image was not to be looked at again.

    >>> crop_in_words(CropResult(why="uncertain", first=0.125, second=-3.5, look="pair"))
    'margin +0.125, then -3.500'
    >>> crop_in_words(CropResult(why="uncertain", first=0.125, skipped="diffuse", look="pair"))
    'margin +0.125, no crop: nothing stood out'
    """
    if look is None:
        return None
    second = f"then {look.second:+.3f}" if look.second is not None else SKIPPED.get(look.skipped or "", look.skipped)
    return f"margin {look.first:+.3f}, {second}"
