"""Boxes as models write them, parsed strictly and with caps, because a model's output is untrusted text.

Conventions (from the families' own cookbooks): Qwen2-VL, Qwen3-VL and InternVL count in thousandths of the image,
Qwen2.5-VL and its descendants in pixels of the *resized* image; `Family.boxes` tells which. All are asked for a JSON
list of {"bbox_2d": [x0, y0, x1, y1], "label": ...}. Qwen2-VL may answer in its special-token form, which is parsed too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from scanfleet.models.families import Family
from scanfleet.models.types import Box

MAX_TEXT = 20_000  # characters that are read
MAX_BOXES = 100
_NATIVE = re.compile(
    r"<\|object_ref_start\|>(?P<label>[^<]{0,200})<\|object_ref_end\|>"
    r"<\|box_start\|>\((?P<x0>\d{1,5}),(?P<y0>\d{1,5})\),\((?P<x1>\d{1,5}),(?P<y1>\d{1,5})\)<\|box_end\|>"
)
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The sizes that a coordinate may refer to, each (width, height) in pixels."""

    original: tuple[int, int]
    resized: tuple[int, int]

    def units(self, family: Family) -> tuple[int, int]:
        """Return how many of the family's units span the image (across, down); thousandths where it was taught none."""
        return self.resized if family.boxes == "resized_pixels" else (1000, 1000)


@dataclass(frozen=True, kw_only=True)
class ParsedBoxes:
    """The trusted boxes of an answer, and one line for each part that could not be trusted."""

    boxes: tuple[Box, ...]
    problems: tuple[str, ...]


def parse_boxes(text: str, *, family: Family, canvas: Canvas, labels: Collection[str]) -> ParsedBoxes:
    """Parse the boxes of a generated answer. Accepts any text.

    A box counts only with four finite numbers, a positive area inside the image and one of `labels`. Coordinates a
    little outside are clipped.

    Args:
        text: The model's answer.
        family: Family of the model, which fixes the units.
        canvas: Size of the original and of the resized image.
        labels: Labels that a box may have.

    Returns:
        Boxes in pixels of the original image, and problems.
    """
    found, problems = _items(text)
    boxes: list[Box] = []
    if len(found) > MAX_BOXES:
        problems.append(f"{len(found)} boxes, only the first {MAX_BOXES} are read")
    for item in found[:MAX_BOXES]:
        box = _box(item, canvas.units(family), canvas.original, labels)
        if isinstance(box, Box):
            boxes.append(box)
        else:
            problems.append(box)
    return ParsedBoxes(boxes=tuple(boxes), problems=tuple(problems))


def format_boxes(boxes: Iterable[Box], *, family: Family, canvas: Canvas) -> str:
    """Format boxes as the JSON answer that a trainer teaches; the inverse of `parse_boxes`.

    Args:
        boxes: In pixels of the original image.
        family: Family of the model, which fixes the units.
        canvas: Size of the original and of the resized image.

    Returns:
        Coordinates in whole units, at least one unit wide and high.
    """
    across, down = canvas.units(family)
    width, height = canvas.original
    answer = []
    for box in boxes:
        x0, x1 = _whole(box.x0 * across / width, box.x1 * across / width, across)
        y0, y1 = _whole(box.y0 * down / height, box.y1 * down / height, down)
        answer.append({"bbox_2d": [x0, y0, x1, y1], "label": box.label})
    return json.dumps(answer)


def _items(text: str) -> tuple[list[Any], list[str]]:
    if len(text) > MAX_TEXT:
        return [], [f"answer of {len(text)} characters, more than {MAX_TEXT}"]
    native = [
        {"bbox_2d": [int(m[name]) for name in ("x0", "y0", "x1", "y1")], "label": m["label"].strip()}
        for m in _NATIVE.finditer(text)
    ]
    if native:
        return native, []
    fenced = _FENCED.search(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return [], ["the answer is not JSON"]
    if isinstance(value, dict):
        value = [value]
    return (value, []) if isinstance(value, list) else ([], ["the answer is not a list of boxes"])


def _box(item: Any, units: tuple[int, int], size: tuple[int, int], labels: Collection[str]) -> Box | str:
    if not isinstance(item, dict):
        return "a box is not an object"
    label, corners = item.get("label"), item.get("bbox_2d")
    if not isinstance(label, str) or label not in labels:
        return "a box has none of the labels asked for"
    if not isinstance(corners, list) or len(corners) != 4 or not all(_is_number(value) for value in corners):
        return "a box does not have four numbers"
    x0, x1 = (min(max(value, 0), units[0]) * size[0] / units[0] for value in corners[0::2])
    y0, y1 = (min(max(value, 0), units[1]) * size[1] / units[1] for value in corners[1::2])
    if x0 >= x1 or y0 >= y1:
        return "a box has no area inside the image"
    return Box(x0=x0, y0=y0, x1=x1, y1=y1, label=label)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(low: float, high: float, limit: int) -> tuple[int, int]:
    first, last = round(low), round(high)
    if first >= last:  # thinner than a unit: take the whole unit around it
        first = min(math.floor(low), limit - 1)
        last = first + 1
    return first, last
