"""Regions of an image, and relevance maps over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]  # [rows, columns], not negative


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle in whole pixels of an image: x0, y0 inclusive, x1, y1 exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def corners(self) -> tuple[int, int, int, int]:
        return (self.x0, self.y0, self.x1, self.y1)

    def scaled(self, across: float, down: float) -> Region:
        """Return the same part of an image whose sides are `across` and `down` times as long; never empty."""
        x0, y0 = round(self.x0 * across), round(self.y0 * down)
        return Region(x0=x0, y0=y0, x1=max(x0 + 1, round(self.x1 * across)), y1=max(y0 + 1, round(self.y1 * down)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Relevance:
    """The relevance of each cell of a grid over a whole image for the answer.

    Attributes:
        values: [rows, columns] fp32, not negative.
        size: (width, height) of the image in pixels.
        tokens: visual tokens that the map cost beyond the first pass; a backward pass counts as two forwards.
    """

    values: Map
    size: tuple[int, int]
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The region of a map, or the reason why it has none.

    Attributes:
        region: in pixels of the image; None: no region.
        side: of the region, as a share of the image's short side.
        sharpness: contrast of the region to its neighbours, per cell.
        why_not: "diffuse" (no peak) or "whole" (the region would be the whole image); empty with a region.
    """

    region: Region | None
    side: float = 0.0
    sharpness: float = 0.0
    why_not: str = ""


Method = Literal["rel-att", "grad-att", "pure-grad"]
Reference = Literal["generic", "blank"]
