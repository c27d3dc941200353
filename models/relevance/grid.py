"""Resample values on a grid over a part of an image to another grid over all of it. Knows numbers only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scanfleet.models.relevance.regions import Map

Corners = tuple[float, float, float, float]  # x0, y0, x1, y1


def resample(
    values: Map, region: Corners, shape: tuple[int, int], size: tuple[int, int]
) -> tuple[Map, NDArray[np.bool_]]:
    """Resample a grid over a region to a grid over the whole image.

    Args:
        values: [rows, columns] fp32 over the region.
        region: (x0, y0, x1, y1) in pixels of the image.
        shape: rows and columns of the result.
        size: (width, height) of the image in pixels.

    Returns:
        Two arrays [rows, columns] of this shape: the fp32 value under the middle of each cell, 0 outside the region;
        and a bool, True where the middle lies in the region.
    """
    rows, in_rows = _under(values.shape[0], region[1], region[3], shape[0], size[1])
    columns, in_columns = _under(values.shape[1], region[0], region[2], shape[1], size[0])
    inside = in_rows[:, None] & in_columns
    return np.where(inside, values[rows][:, columns], np.float32(0)), inside


def _under(
    cells: int, start: float, end: float, count: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the source cell under the middle of each of `count` cells of a line, and whether there is one."""
    middles = (np.arange(count) + 0.5) * length / count
    found = np.floor((middles - start) / (end - start) * cells).astype(np.int64)
    return found.clip(0, cells - 1), (found >= 0) & (found < cells)


def extend_to_image(values: Map, region: Corners, size: tuple[int, int]) -> Map:
    """Extend a grid over a part of an image to all of it, with cells of about the same size.

    Args:
        values: [rows, columns] fp32 over the region.
        region: (x0, y0, x1, y1) in pixels of the image.
        size: (width, height) of the image in pixels.

    Returns:
        [rows, columns] fp32 over the image, 0 outside the region.
    """
    all_of_it: Corners = (0.0, 0.0, float(size[0]), float(size[1]))
    if region == all_of_it:
        return values
    across = (region[2] - region[0]) / values.shape[1]
    down = (region[3] - region[1]) / values.shape[0]
    shape = (max(1, round(size[1] / down)), max(1, round(size[0] / across)))
    return resample(values, region, shape, size)[0]
