"""Draws boxes and crops of a verdict on a thumbnail, and describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from scanfleet.checks.crop_result import CropResult

# A light line around a dark one is visible on any background.
COLOURS = ((255, 255, 255), (179, 38, 30))
CROP_COLOURS = ((255, 255, 255), (0, 90, 181))  # of the crop
Boxes = Sequence[Mapping[str, Any]]


def draw_boxes(
    thumbnail: Image.Image, boxes: Boxes, *, size: tuple[int, int], colours: Sequence[tuple[int, int, int]] = COLOURS
) -> None:
    """Outline boxes in place. size: (width, height) of the image in whose pixels the boxes are given."""
    across, down = thumbnail.width / size[0], thumbnail.height / size[1]
    draw = ImageDraw.Draw(thumbnail)
    for box in boxes:
        left, top, right, bottom = box["x0"] * across, box["y0"] * down, box["x1"] * across, box["y1"] * down
        for width, colour in zip((3, 1), colours, strict=True):
            outer = (max(left, 0), max(top, 0), min(right, thumbnail.width - 1), min(bottom, thumbnail.height - 1))
            if outer[0] <= outer[2] and outer[1] <= outer[3]:
                draw.rectangle(outer, outline=colour, width=width)


def boxes_in_words(boxes: Boxes | None) -> str | None:
    """Return the labels of boxes with their counts; None if no boxes were asked for.

    >>> boxes_in_words([{"label": "gun"}, {"label": "gun"}, {"label": "knife"}]), boxes_in_words([])
    ('2 gun, 1 knife', '0')
    """
    if boxes is None:
        return None
    counts = Counter(str(box["label"]) for box in boxes)
    return ", ".join(f"{n} {label}" for label, n in sorted(counts.items())) or "0"


def draw_crop(thumbnail: Image.Image, crop: CropResult | None, *, size: tuple[int, int]) -> None:
    """Outline the crop in place, as `draw_boxes`."""
    if crop is not None and crop.box is not None:
        corners = dict(zip(("x0", "y0", "x1", "y1"), crop.box, strict=True))
        draw_boxes(thumbnail, [corners], size=size, colours=CROP_COLOURS)


SKIPPED = {
    "cap": "no crop: the check's max_extra was spent",
    "diffuse": "no crop: nothing stood out",
    "whole": "no crop: the region is the whole image",
    "enough": "no crop: the first pass saw every pixel",
}


def crop_in_words(crop: CropResult | None) -> str | None:
    """Return both margins, or the reason for no crop; None if no crop was due.

    >>> crop_in_words(CropResult(why="uncertain", first=0.125, second=-3.5, look="pair"))
    'margin +0.125, then -3.500'
    >>> crop_in_words(CropResult(why="uncertain", first=0.125, skipped="diffuse", look="pair"))
    'margin +0.125, no crop: nothing stood out'
    """
    if crop is None:
        return None
    second = f"then {crop.second:+.3f}" if crop.second is not None else SKIPPED.get(crop.skipped or "", crop.skipped)
    return f"margin {crop.first:+.3f}, {second}"
