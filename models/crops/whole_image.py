"""Crop passes that need no region: the whole image under another pixel budget, or cut into tiles.

A pass with a region has to beat these at the same number of tokens. Two budgets of one image, fused by the mean of
their label logits or by the larger margin, are known as multi-scale fusion. That is `look = "larger"`, whose budget may
be smaller than the first pass's. Everything here runs on the host, in any thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from scanfleet.models.crops.policy import CropPolicy, Look
from scanfleet.models.families import ImageReader, PreparedImage
from scanfleet.models.relevance.regions import Region
from scanfleet.models.types import Question

WHOLE_IMAGE_LOOKS: tuple[Look, ...] = ("larger", "tiles", "adapted")

MAX_TILES = 16  # of one image; a larger image is shrunk in each of them
OVERLAP = 0.2  # of a tile's side, with each neighbour: a smaller object lies completely in some tile
ENOUGH_SHARPNESS = 0.8  # of the image's own resolution, along a side; more tiles would show little more
MAX_TILE_ASPECT = 2.0  # a tile's long side over its short one, unless the image leaves no choice

MIN_EDGE_CONTRAST = 32  # grey levels between the darkest and the brightest pixel of a block: an edge, not noise
LOST_CONTRAST_SHARE = 0.7  # share of that contrast that must remain at the first pass's size
ENOUGH_LOST_EDGES = 0.05  # share of an image's edges; one small object among large ones has hardly more
MIN_ADAPTED_GAIN = 1.25  # times the first pass's pixels; below it an adapted budget would show the same again


def whole_image_rows(
    image: Image.Image, *, reader: ImageReader, question: Question, policy: CropPolicy
) -> tuple[PreparedImage, ...]:
    """Prepare the rows of a pass in WHOLE_IMAGE_LOOKS.

    Args:
        image: with all its pixels.
        reader: of the model.
        question: its pixel budget is that of the first pass.
        policy: of the crop pass.

    Returns:
        One row, or one per tile. Empty if the first pass saw everything: for "adapted" judged by the image's edges, and
        for every pass over the whole image by the size at which it was read.

    Raises:
        ImageUnsuitable: the model cannot read the image.
    """
    pixels, views = policy.crop_pixels, [image]
    if policy.look == "tiles":
        views = [image.crop(tile.corners) for tile in tiling(image.size, pixels=pixels)]
    elif policy.look == "adapted":
        pixels = adapted_budget(image, budget=question.max_pixels, most=policy.crop_pixels).pixels
        if pixels < MIN_ADAPTED_GAIN * question.max_pixels:
            return ()
    rows = tuple(reader.prepare(view, max_pixels=pixels, min_pixels=question.min_pixels) for view in views)
    if len(rows) > 1:
        return rows
    first = reader.prepare(image, max_pixels=question.max_pixels, min_pixels=question.min_pixels)
    return () if _shows_nothing_new(rows[0], first, look=policy.look) else rows


def _shows_nothing_new(row: PreparedImage, first: PreparedImage, *, look: Look) -> bool:
    """Return True if the row equals the first pass's image.

    A smaller "larger" row is another scale and counts as new.
    """
    if look == "larger":
        return row.resized_size == first.resized_size
    return math.prod(row.resized_size) <= math.prod(first.resized_size)


def tiling(size: tuple[int, int], *, pixels: int) -> list[Region]:
    """Cover an image with overlapping tiles of one size, row by row.

    There are as few tiles as show nearly all of the image's own resolution. If that takes more than MAX_TILES, it is
    the grid that shows most. No tile is a sliver: the last one of a row ends with the image.

    Args:
        size: (width, height) of the image.
        pixels: pixel budget of each tile.
    """
    grids = [(rows, columns) for rows in range(1, MAX_TILES + 1) for columns in range(1, MAX_TILES // rows + 1)]
    grids = [grid for grid in grids if _is_compact(size, grid)] or grids

    def preference(grid: tuple[int, int]) -> tuple[float, int, float]:
        width, height = _tile(size, grid)
        sharpness = min(1.0, math.sqrt(pixels / (width * height)))
        long_over_short = max(width, height) / min(width, height)
        return (-min(sharpness, ENOUGH_SHARPNESS), math.prod(grid), long_over_short)

    rows, columns = min(grids, key=preference)
    width, height = _tile(size, (rows, columns))
    lefts, tops = _starts(size[0], width, columns), _starts(size[1], height, rows)
    return [Region(x0=x, y0=y, x1=x + width, y1=y + height) for y in tops for x in lefts]


def _tile(size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of each of rows x columns tiles."""
    rows, columns = grid
    return (
        math.ceil(size[0] / (columns - (columns - 1) * OVERLAP)),
        math.ceil(size[1] / (rows - (rows - 1) * OVERLAP)),
    )


def _is_compact(size: tuple[int, int], grid: tuple[int, int]) -> bool:
    width, height = _tile(size, grid)
    return max(width, height) <= MAX_TILE_ASPECT * min(width, height)


def _starts(length: int, tile: int, count: int) -> list[int]:
    """Return the start of each of `count` tiles: evenly spaced, the last tile ending with the image."""
    return [round(number * (length - tile) / max(count - 1, 1)) for number in range(count)]


@dataclass(frozen=True, kw_only=True)
class AdaptedBudget:
    """The pixel budget of one image, with its reasons.

    Attributes:
        pixels: the budget.
        shrink: the factor by which the first pass shortens the sides; 1 for an image that fits.
        lost: share of the strong edges that this removes, 0..1.
    """

    pixels: int
    shrink: float
    lost: float


def adapted_budget(image: Image.Image, *, budget: int, most: int) -> AdaptedBudget:
    """Compute the budget of one image by `adapted_pixels`.

    Args:
        image: with all its pixels.
        budget: pixels of the first pass; the result is at least that.
        most: the largest result.
    """
    shrink = _shrink(image.size, budget)
    lost = lost_edge_share(image, shrink)
    return AdaptedBudget(
        pixels=adapted_pixels(image.size, budget=budget, edge_density=lost, most=most), shrink=shrink, lost=lost
    )


def adapted_pixels(image_size: tuple[int, int], *, budget: int, edge_density: float, most: int) -> int:
    """Return budget · shrink^(2 · min(1, edge_density / ENOUGH_LOST_EDGES)), at most `most`.

    If shrinking removed no edge, none of its pixels come back. From ENOUGH_LOST_EDGES on, all of them do.

    Args:
        image_size: (width, height) of the image.
        budget: pixels of the first pass.
        edge_density: share of the strong edges that are lost, from `lost_edge_share`.
        most: the largest result.
    """
    wanted = budget * _shrink(image_size, budget) ** (2 * min(1.0, edge_density / ENOUGH_LOST_EDGES))
    return min(most, int(wanted))


def _shrink(size: tuple[int, int], budget: int) -> float:
    return max(1.0, math.sqrt(size[0] * size[1] / budget))


def lost_edge_share(image: Image.Image, shrink: float) -> float:
    """Return the share of strong edges that vanish when the sides become `shrink` times shorter, in 0..1.

    The image is cut into the blocks that become one pixel. For each block with an edge, the contrast of its pixels and
    its eight neighbours' is compared with the contrast of these blocks' means. A contour between two areas keeps its
    contrast. A line thinner than half a block, or a speck, loses it.

    Args:
        image: with all its pixels.
        shrink: 1 or more.

    Returns:
        0 for an image without strong edges.
    """
    side = min(round(shrink), *image.size)
    if side <= 1:
        return 0.0
    grey = np.asarray(image.convert("L").filter(ImageFilter.BoxBlur(1)))  # the mean of 3 x 3 takes most noise away
    rows, columns = grey.shape[0] // side, grey.shape[1] // side
    blocks = grey[: rows * side, : columns * side].reshape(rows, side, columns, side)
    bright, dark = (found((1, 3)).astype(np.float32) for found in (blocks.max, blocks.min))
    full = _around(bright, np.maximum) - _around(dark, np.minimum)
    means = blocks.mean((1, 3), dtype=np.float32)
    left = _around(means, np.maximum) - _around(means, np.minimum)
    strong = bright - dark >= MIN_EDGE_CONTRAST
    return float((strong & (left < LOST_CONTRAST_SHARE * full)).sum() / max(strong.sum(), 1))


def _around(
    values: NDArray[np.float32],
    most: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Reduce each value and its eight neighbours by `most`: [rows, columns] to [rows, columns]."""
    padded = np.pad(values, 1, mode="edge")
    across = most(most(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    return most(most(across[:-2], across[1:-1]), across[2:])
