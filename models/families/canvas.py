"""Where an image lies on a canvas of equal square crops, as Phi-4-multimodal lays it. Arithmetic alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Rows and columns of crops of `side` pixels; the image fills width x height pixels from the upper left corner."""

    rows: int
    columns: int
    width: int
    height: int
    side: int

    @property
    def margins(self) -> tuple[int, int]:
        """Empty pixels on the right and below."""
        return self.columns * self.side - self.width, self.rows * self.side - self.height

    def filled(self, patch: int) -> tuple[int, int]:
        """Rows and columns of patches of the canvas that hold some of the image."""
        right, below = self.margins
        per_crop = self.side // patch
        return self.rows * per_crop - below // patch, self.columns * per_crop - right // patch


def lay_out(width: int, height: int, *, side: int, most: int) -> Canvas:
    """The canvas for an image of width x height pixels, of at most `most` crops.

    As many crops as the image covers at its own size; where those are too many, the shape nearest to its own. The
    image then grows or shrinks until it fills the canvas one way; its aspect ratio stays.
    """
    columns, rows = math.ceil(width / side), math.ceil(height / side)
    if columns * rows > most:
        columns, rows = _nearest(width, height, side, most)
    across, down = columns * side / width, rows * side / height
    if across < down:
        return Canvas(rows=rows, columns=columns, width=columns * side, height=int(height * across), side=side)
    return Canvas(rows=rows, columns=columns, width=int(width * down), height=rows * side, side=side)


def _nearest(width: int, height: int, side: int, most: int) -> tuple[int, int]:
    """Columns and rows; among equally near ones the larger, when the image has pixels enough to fill half of it."""
    best, gap = (1, 1), math.inf
    for columns, rows in _shapes(most):
        found = abs(width / height - columns / rows)
        if found < gap or (found == gap and width * height > 0.5 * side**2 * columns * rows):
            best, gap = (columns, rows), found
    return best


@lru_cache(maxsize=64)
def _shapes(most: int) -> list[tuple[int, int]]:
    """All (columns, rows) of at most `most` crops, the smallest first."""
    shapes = [(columns, rows) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    return sorted(shapes, key=lambda shape: shape[0] * shape[1])
