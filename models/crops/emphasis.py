"""One row of a forward whose tokens in a region count several times (`models.network.attention`)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from models.families import PreparedImage, PreparedRow
from models.families.cells import Cells
from models.relevance.regions import Region

COVERED = 0.5  # share of a token's cell that lies in the region
ROUNDING = 1e-6  # by which equal shares may differ


def emphasised(image: PreparedImage, region: Region, *, cells: Cells, factor: float) -> PreparedRow:
    """An image as one row whose tokens in a region, in pixels of the original image, get `factor` times the attention.

    cells: of the image, as its reader says. A token is in the region when half of its cell is; where the region covers
    half of none, the one it covers most of; none where the model's preparation has cut the region off. Raises
    ValueError for a factor under 1.
    """
    if factor < 1:
        raise ValueError(f"a factor of {factor} would take attention away from the region; use 1 or more")
    shares = np.where(cells.tokens >= 0, _covered(cells, region), 0)
    inside = (shares >= min(COVERED, (1 - ROUNDING) * shares.max())) & (shares > 0)
    emphasis = torch.zeros(image.visual_tokens, dtype=torch.bool)
    emphasis[torch.from_numpy(cells.tokens[inside])] = True
    return PreparedRow(images=(image,), emphasis=emphasis, factor=factor)


def _covered(cells: Cells, region: Region) -> NDArray[np.float64]:
    """The share of each cell that lies in the region, (rows, columns)."""
    rows, columns = cells.tokens.shape
    x0, y0, x1, y1 = cells.region
    across, down = columns / (x1 - x0), rows / (y1 - y0)
    return np.outer(
        _overlaps((region.y0 - y0) * down, (region.y1 - y0) * down, rows),
        _overlaps((region.x0 - x0) * across, (region.x1 - x0) * across, columns),
    )


def _overlaps(start: float, end: float, cells: int) -> NDArray[np.float64]:
    """How much of each of `cells` unit cells in a line lies between start and end, (cells,) in 0..1."""
    first = np.arange(cells)
    return (np.minimum(first + 1, end) - np.maximum(first, start)).clip(min=0)
