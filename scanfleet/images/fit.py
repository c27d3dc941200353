"""The size to which a model resizes its pictures, so that a decoder can resize them where they are.

Pure: the decoder child and the worker compute the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

MOST_RATIO = 200  # of the longer side to the shorter one


class Fit(NamedTuple):
    """Sides are multiples of `unit`, and the pixels lie between `least` and `most`; the aspect ratio is kept.

    strict: where enlarging to `least` rounds up beyond `most`, the size is chosen again without a least one.
    resample: the number of one of Pillow's filters.
    """

    unit: int
    least: int
    most: int
    strict: bool
    resample: int

    def size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return (width, height) for a picture of this size; None for one that is too long for models."""
        if max(size) / min(size) > MOST_RATIO:
            return None
        fitted = _resized(size, self.unit, self.least, self.most)
        if self.strict and fitted[0] * fitted[1] > self.most:
            return None if max(fitted) / min(fitted) > MOST_RATIO else _resized(fitted, self.unit, 1, self.most)
        return fitted


def _resized(size: tuple[int, int], unit: int, least: int, most: int) -> tuple[int, int]:
    """As transformers' `smart_resize` of Qwen2-VL, to the last bit."""
    width, height = size
    across, down = round(width / unit) * unit, round(height / unit) * unit
    if across * down > most:
        shrink = math.sqrt((height * width) / most)
        down = max(unit, math.floor(height / shrink / unit) * unit)
        across = max(unit, math.floor(width / shrink / unit) * unit)
    elif across * down < least:
        grow = math.sqrt(least / (height * width))
        down = math.ceil(height * grow / unit) * unit
        across = math.ceil(width * grow / unit) * unit
    return across, down
