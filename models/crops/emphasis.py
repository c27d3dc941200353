"""A row of a forward in which the tokens of a region get more attention (`models.network.attention`)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from scanfleet.models.families import PreparedImage, PreparedRow
from scanfleet.models.families.cells import Cells
from scanfleet.models.relevance.regions import Region

COVERED = 0.5  # share of a token's cell that must lie in the region
ROUNDING = 1e-6  # tolerance between equal shares


def emphasised(image: PreparedImage, region: Region, *, cells: Cells, factor: float) -> PreparedRow:
    """Build a row whose tokens in a region get `factor` times the attention.

    A token is in the region if half of its cell is. If the region covers half of no cell, it is the token of the cell
    that the region covers most. No token is in the region if the model's preparation cropped it away.

    Args:
        image: the prepared image.
        region: in pixels of the original image.
        cells: of the image, from its reader.
        factor: 1 or more.

    Raises:
        ValueError: the factor is under 1.
    """
    if factor < 1:
        raise ValueError(f"an emphasis factor of {factor} would reduce the attention to the region; use 1 or more")
    shares = np.where(cells.tokens >= 0, _covered(cells, region), 0)
    inside = (shares >= min(COVERED, (1 - ROUNDING) * shares.max())) & (shares > 0)
    emphasis = torch.zeros(image.visual_tokens, dtype=torch.bool)
    emphasis[torch.from_numpy(cells.tokens[inside])] = True
    return PreparedRow(images=(image,), emphasis=emphasis, factor=factor)


def _covered(cells: Cells, region: Region) -> NDArray[np.float64]:
    """Return the share of each cell that lies in the region, [rows, columns] in 0..1."""
    rows, columns = cells.tokens.shape
    x0, y0, x1, y1 = cells.region
    across, down = columns / (x1 - x0), rows / (y1 - y0)
    return np.outer(
        _overlaps((region.y0 - y0) * down, (region.y1 - y0) * down, rows),
        _overlaps((region.x0 - x0) * across, (region.x1 - x0) * across, columns),
    )


def _overlaps(start: float, end: float, cells: int) -> NDArray[np.float64]:
    """Return the part of each unit cell of a line that lies between start and end, [cells] in 0..1."""
    first = np.arange(cells)
    return (np.minimum(first + 1, end) - np.maximum(first, start)).clip(min=0)
