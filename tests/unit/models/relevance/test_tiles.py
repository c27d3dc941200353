"""Tiles cover the image, all as large as each other, never a sliver; and their maps join where they lie."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanfleet.models.relevance.regions import Region, Relevance
from scanfleet.models.relevance.select import choose
from scanfleet.models.relevance.tiles import MOST, OVERLAP, join, tiles_of


@pytest.mark.parametrize(
    ("size", "columns", "rows"),
    [
        ((800, 600), 1, 1),
        ((1536, 1536), 1, 1),
        ((1537, 1536), 2, 1),
        ((500, 3000), 1, 3),
        ((3000, 500), 3, 1),
        ((6000, 4000), 6, 4),
        ((2048, 2048), 2, 2),
    ],
)
def test_an_image_is_cut_into_tiles_of_about_a_thousand_pixels(size: tuple[int, int], columns: int, rows: int) -> None:
    tiles = tiles_of(size)
    assert len(tiles) == columns * rows
    assert len({tile.x0 for tile in tiles}) == columns
    assert [tile.y0 for tile in tiles] == sorted(tile.y0 for tile in tiles)
    for length, count in ((tiles[0].width, columns), (tiles[0].height, rows)):
        assert count == 1 or 700 < length < 1200


@given(size=st.tuples(st.integers(1, 60_000), st.integers(1, 60_000)))
@settings(max_examples=300, deadline=None)
def test_tiles_cover_every_pixel_and_are_all_alike(size: tuple[int, int]) -> None:
    tiles = tiles_of(size)
    assert 1 <= len(tiles) <= MOST
    assert len({(tile.width, tile.height) for tile in tiles}) == 1
    for axis in (0, 1):
        spans = sorted({(tile.corners[axis], tile.corners[axis + 2]) for tile in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == size[axis]
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= OVERLAP - 1  # shared with the neighbour, up to rounding
    assert len(tiles) == 1 or min(tiles[0].width, tiles[0].height) >= min(512, *size)


@pytest.mark.parametrize("size", [(6000, 4000), (500, 3000), (3000, 500), (2000, 2000)])
def test_a_peak_in_one_tile_lies_where_it_is_in_the_joined_map(size: tuple[int, int]) -> None:
    regions, target = tiles_of(size), (size[0] * 0.7, size[1] * 0.7)
    maps = [tile_map(region, target) for region in regions]
    joined = join(maps, regions, size)
    assert joined.size == size
    assert joined.tokens == 7 * len(regions)
    row, column = np.unravel_index(joined.values.argmax(), joined.values.shape)
    assert (column + 0.5) / joined.values.shape[1] * size[0] == pytest.approx(target[0], abs=150)
    assert (row + 0.5) / joined.values.shape[0] * size[1] == pytest.approx(target[1], abs=150)
    region = choose(joined).region
    assert region is not None
    assert region.x0 <= target[0] < region.x1
    assert region.y0 <= target[1] < region.y1


def tile_map(region: Region, target: tuple[float, float]) -> Relevance:
    """Cells of about 100 pixels, flat but for the one with the target."""
    rows, columns = max(2, region.height // 100), max(2, region.width // 100)
    values = np.ones((rows, columns), np.float32)
    x, y = target[0] - region.x0, target[1] - region.y0
    if 0 <= x < region.width and 0 <= y < region.height:
        values[int(y / region.height * rows), int(x / region.width * columns)] = 80
    return Relevance(values=values, size=(region.width, region.height), tokens=7)


def test_tiles_of_one_unit_join_without_seams() -> None:
    size = (3000, 2000)
    regions = tiles_of(size)
    maps = [Relevance(values=np.full((10, 9), 3, np.float32), size=(r.width, r.height)) for r in regions]
    assert np.array_equal(np.unique(join(maps, regions, size).values), [3])
