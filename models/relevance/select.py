"""Select the region for the crop pass from a relevance map, or none. Arithmetic only.

ViCrop (arXiv 2502.17422) slides square windows of several sides over the map and takes the largest sum of each. Of all
sides it keeps the one with the largest contrast to its neighbours, per cell. Its reference code takes sides in pixels
of the model's input. On a large image such a window covers no cell and the upper left corner comes back; it always
crops. Here a side is a share of the image's short side and at least two cells, and a map without a peak gives no
region.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scanfleet.models.relevance.regions import Choice, Region, Relevance

SIDES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)  # of the image's short side
LEAST_CELLS = 2  # along a window's side
TOP = 0.995  # quantile to which higher cells are clipped
TOPMOST = 4  # at most this many cells are clipped, since smoothing turns one outlier into nine
# A map has a peak if its highest smoothed cell lies OUTLYING robust standard deviations over the median of all cells
# and is TIMES as high. Of maps of noise (uniform, half-normal, exponential, log-normal with sigma 0.5; 4 x 4 to
# 40 x 60 cells) at most 5 % pass, of the pocket model's maps that peak at a planted target about 95 % (M).
OUTLYING, TIMES = 7.0, 1.5
# Smoothing spreads a peak over three cells a side, which is a third of the image in a coarse grid. If the window's
# peak lies in fewer cells, the region shrinks to these and half a cell around them. Over 10 x 10
# cells, for targets of 1 to 5 % of the side, recall rose by 14 points, and regions held as many targets as before (M).
HALF = 0.5  # of the highest cell in the window; cells from this on are its peak
MIN_PEAK_SHARE = 0.6  # share of the window's excess over the map's median that the peak must hold

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Window:
    """rows x columns of cells from (top, left) on.

    `side` is that of the square around its middle, in pixels of the image.
    """

    top: int
    left: int
    rows: int
    columns: int
    side: float
    sharpness: float

    def of(self, cells: Numbers) -> Numbers:
        return cells[self.top : self.top + self.rows, self.left : self.left + self.columns]


def choose(relevance: Relevance) -> Choice:
    """Select the square region with the largest contrast.

    Returns:
        The region. None with the reason "diffuse" for a map without a peak or with values that are not finite, and
        "whole" for a region as large as the image.
    """
    values = relevance.values
    if not np.isfinite(values).all() or values.max() <= 0:
        return Choice(region=None, why_not="diffuse")
    cells = smoothed(values / values.mean(dtype=np.float64))
    cells = np.minimum(cells, np.quantile(cells, max(TOP, 1 - TOPMOST / cells.size)))
    windows = [_best(cells, rows, columns, side) for rows, columns, side in _sizes(cells.shape, relevance.size)]
    if not windows:
        return Choice(region=None, side=1.0, why_not="whole")
    best = max(windows, key=lambda window: window.sharpness)
    diffuse = not stands_out(cells, float(best.of(cells).max()))
    best = shrunk_to_peak(best, values.astype(np.float64), relevance.size)
    return Choice(
        region=None if diffuse else _region(best, cells.shape, relevance.size),
        side=best.side / min(relevance.size),
        sharpness=best.sharpness,
        why_not="diffuse" if diffuse else "",
    )


def shrunk_to_peak(window: _Window, values: Numbers, size: tuple[int, int]) -> _Window:
    """Shrink a window to its peak, if the peak holds most of the window's excess over the median.

    Args:
        window: of the map.
        values: [rows, columns] float64, the map before smoothing.
        size: (width, height) of the image in pixels.

    Returns:
        The smaller window, or the same one.
    """
    excess = window.of(np.maximum(0, values - np.median(values)))
    peak = excess >= HALF * excess.max()
    rows, columns = np.flatnonzero(peak.any(1)), np.flatnonzero(peak.any(0))
    part = excess[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    high, wide = size[1] / values.shape[0], size[0] / values.shape[1]
    side = max((part.shape[0] + 1) * high, (part.shape[1] + 1) * wide, SIDES[0] * min(size))
    if side >= window.side or part.sum() < MIN_PEAK_SHARE * excess.sum():
        return window
    top, left = window.top + int(rows[0]), window.left + int(columns[0])
    return replace(window, top=top, left=left, rows=part.shape[0], columns=part.shape[1], side=side)


def stands_out(cells: Numbers, peak: float) -> bool:
    """Return True if a peak stands out from the cells, whatever their scale. In a small grid hardly any peak does.

    Args:
        cells: [rows, columns] float64, the smoothed map.
        peak: its highest value in the window.
    """
    middle = float(np.median(cells))
    spread = 1.4826 * float(np.median(np.abs(cells - middle)))  # the standard deviation, were they normal
    return peak - middle >= OUTLYING * spread and peak > TIMES * middle


def smoothed(values: Numbers) -> Numbers:
    """Smooth a map by the mean over 3 x 3 cells; at the border over those that exist.

    Args:
        values: [rows, columns] float64.

    Returns:
        [rows, columns] float64.
    """
    return _sums(np.pad(values, 1), 3, 3) / _sums(np.pad(np.ones(values.shape), 1), 3, 3)


def _sizes(shape: tuple[int, ...], size: tuple[int, int]) -> Iterator[tuple[int, int, float]]:
    """Yield rows, columns and side in pixels of the windows to try, without repeats and without the whole map."""
    high, wide = size[1] / shape[0], size[0] / shape[1]  # of a cell
    seen = {tuple(shape)}
    for share in SIDES:
        side = max(share * min(size), LEAST_CELLS * high, LEAST_CELLS * wide)
        rows, columns = min(shape[0], round(side / high)), min(shape[1], round(side / wide))
        if (rows, columns) not in seen:
            seen.add((rows, columns))
            yield rows, columns, max(rows * high, columns * wide)


def _best(cells: Numbers, rows: int, columns: int, side: float) -> _Window:
    """Return the window of one size with the largest mean."""
    means = _sums(cells, rows, columns) / (rows * columns)
    top, left = (int(place) for place in np.unravel_index(means.argmax(), means.shape))
    sharpness = float(means[top, left]) - _around(cells, top, left, rows, columns)
    return _Window(top=top, left=left, rows=rows, columns=columns, side=side, sharpness=sharpness)


def _around(cells: Numbers, top: int, left: int, rows: int, columns: int) -> float:
    """Return the mean over a window's up to four neighbours of its size, as far as they lie on the map."""
    places = ((top - rows, left), (top + rows, left), (top, left - columns), (top, left + columns))
    parts = [cells[max(0, y) : max(0, y + rows), max(0, x) : max(0, x + columns)] for y, x in places]
    return float(np.mean([part.mean() for part in parts if part.size]))


def _sums(values: Numbers, rows: int, columns: int) -> Numbers:
    """Return the sum over each window of rows x columns, at stride 1."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    found: Numbers = (
        total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    )
    return found


def _region(window: _Window, shape: tuple[int, ...], size: tuple[int, int]) -> Region:
    """Return the square around the window's middle, shifted into the image.

    It is cropped only where the image is narrower.
    """
    x0, x1 = _stretch((window.left + window.columns / 2) / shape[1] * size[0], window.side, size[0])
    y0, y1 = _stretch((window.top + window.rows / 2) / shape[0] * size[1], window.side, size[1])
    return Region(x0=x0, y0=y0, x1=x1, y1=y1)


def _stretch(middle: float, side: float, length: int) -> tuple[int, int]:
    long = min(length, max(1, round(side)))
    start = min(max(0, round(middle - long / 2)), length - long)
    return start, start + long
