"""Where the visual tokens of one image lie in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Where the visual tokens of one image lie in it.

    tokens: (rows, columns), the number of the visual token that stands for each cell; -1: none does.
    region: (x0, y0, x1, y1) that all cells together cover, in pixels of the original image; less than the image where
    the model's own preparation cuts some of it off, more where it puts bars beside it.
    """

    tokens: NDArray[np.int64]
    region: tuple[float, float, float, float]
