"""The place of each visual token in its image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The place of each visual token in its image.

    Attributes:
        tokens: [rows, columns] int64, the number of the visual token for each cell; -1: no token.
        region: (x0, y0, x1, y1) in pixels of the original image, covered by all cells together. It is smaller than the
            image where preparation crops it, and larger where preparation pads it.
    """

    tokens: NDArray[np.int64]
    region: tuple[float, float, float, float]
