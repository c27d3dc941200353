"""A region lies in the image, is a square where it can be, holds the peak; and a map that says nothing gives none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanfleet.models.relevance.regions import Choice, Region, Relevance
from scanfleet.models.relevance.select import choose, smoothed

Noise = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
NOISES: dict[str, Noise] = {
    "flat": lambda rng, shape: np.ones(shape),
    "flat, rounded": lambda rng, shape: 1 + rng.normal(0, 1e-6, shape),
    "nearly flat": lambda rng, shape: 1 + rng.normal(0, 0.01, shape),
    "uniform": lambda rng, shape: rng.random(shape),
    "half-normal": lambda rng, shape: np.abs(rng.normal(size=shape)),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "log-normal": lambda rng, shape: rng.lognormal(0, 0.5, shape),
}
SHAPES = ((4, 4), (7, 14), (10, 10), (24, 24), (40, 60))


def map_of(values: np.ndarray, cell: int = 40, scale: float = 1.0) -> Relevance:
    size = (values.shape[1] * cell, values.shape[0] * cell)
    return Relevance(values=(values * scale).astype(np.float32), size=size)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_gives_no_region(kind: str) -> None:
    rng = np.random.default_rng(7)
    for shape in SHAPES:
        found = [choose(map_of(NOISES[kind](rng, shape))) for _ in range(40)]
        assert sum(choice.region is not None for choice in found) <= 2
        assert all(choice.why_not == "diffuse" for choice in found if choice.region is None)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_scale_of_a_map_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(9)
    for kind in NOISES:
        values = NOISES[kind](rng, (10, 14))
        other = choose(map_of(values, scale=scale))
        assert (other.region, other.why_not) == (choose(map_of(values)).region, choose(map_of(values)).why_not)
        assert other.sharpness == pytest.approx(choose(map_of(values)).sharpness, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("kind", NOISES)
def test_a_planted_peak_gives_a_region_around_it(kind: str) -> None:
    rng = np.random.default_rng(8)
    for shape in ((7, 14), (10, 10), (24, 24), (40, 60)):
        for _ in range(10):
            values = NOISES[kind](rng, shape)
            row, column = (int(rng.integers(0, length)) for length in shape)
            values[row, column] += 60 * values.mean()
            choice = choose(map_of(values))
            assert choice.region is not None
            assert holds(choice.region, (column + 0.5) * 40, (row + 0.5) * 40)


def holds(region: Region, x: float, y: float) -> bool:
    return region.x0 <= x < region.x1 and region.y0 <= y < region.y1


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.tuples(st.integers(1, 6000), st.integers(1, 4000)),
    seed=st.integers(0, 999),
    peak=st.floats(0, 1e4),
)
@settings(max_examples=100, deadline=None)
def test_a_region_lies_in_the_image_and_is_a_square_where_it_can_be(
    shape: tuple[int, int], size: tuple[int, int], seed: int, peak: float
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random(shape)
    at = tuple(int(rng.integers(0, length)) for length in shape)
    values[at] += peak
    choice = choose(Relevance(values=values.astype(np.float32), size=size))
    region = choice.region
    assert (region is None) == bool(choice.why_not)
    if region is not None:
        assert 0 <= region.x0 < region.x1 <= size[0]
        assert 0 <= region.y0 < region.y1 <= size[1]
        assert (region.width, region.height) != size or min(shape) < 3 or max(size) < 10
        longer, shorter = max(region.width, region.height), min(region.width, region.height)
        assert longer == shorter or shorter == min(size)


def test_large_and_tall_images_get_the_region_where_the_peak_is() -> None:
    """The reference code gives the upper left corner of the first, and fails on the second."""
    for size, shape in (((6000, 4000), (20, 30)), ((500, 3000), (48, 8)), ((3000, 500), (8, 48))):
        values = np.full(shape, 1.0)
        row, column = shape[0] * 3 // 4, shape[1] * 3 // 4
        values[row, column] = 50
        region = choose(Relevance(values=values.astype(np.float32), size=size)).region
        assert region is not None
        assert holds(region, (column + 0.5) / shape[1] * size[0], (row + 0.5) / shape[0] * size[1])
        assert region.width == region.height < 0.6 * min(size)


@pytest.mark.parametrize("cells", [3, 9])
def test_the_side_follows_what_stands_out(cells: int) -> None:
    values = np.full((24, 24), 1.0)
    values[10 : 10 + cells, 6 : 6 + cells] = 9
    choice = choose(map_of(values))
    assert choice.region is not None
    assert 0.75 * cells <= choice.region.width / 40 <= cells + 2
    middle = (choice.region.x0 + choice.region.x1) / 80, (choice.region.y0 + choice.region.y1) / 80
    assert middle == pytest.approx((6 + cells / 2, 10 + cells / 2), abs=1)
    assert choice.side == pytest.approx(choice.region.width / (24 * 40), abs=0.01)


def test_a_lone_sink_does_not_outweigh_a_region() -> None:
    """Attention has sinks: single tokens that get much whatever there is to see."""
    values = np.random.default_rng(3).random((24, 24))
    values[15:18, 15:18] = 12
    values[2, 2] = 10_000
    capped = choose(map_of(np.minimum(values, 100)))
    assert capped.region is not None
    region = choose(map_of(values)).region
    assert region is not None  # one of both, and no larger for the sink
    assert region.width <= 5 * 40


def test_a_window_as_large_as_the_image_is_no_region() -> None:
    assert choose(map_of(np.array([[1, 9], [1, 1]]))) == Choice(region=None, side=1.0, why_not="whole")


@pytest.mark.parametrize("bad", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.full((8, 8), np.inf)])
def test_a_map_without_numbers_says_nothing(bad: np.ndarray) -> None:
    assert choose(map_of(bad)).why_not == "diffuse"


def test_smoothing_keeps_a_flat_map_flat_to_its_border() -> None:
    assert np.allclose(smoothed(np.full((3, 5), 2.0)), 2)
    spike = np.zeros((5, 5))
    spike[0, 0] = 8
    assert smoothed(spike)[0, 0] == pytest.approx(2)  # of the four cells that there are
    assert smoothed(spike)[1, 1] == pytest.approx(8 / 9)


def test_a_region_is_drawn_in_to_a_peak_that_smoothing_spread() -> None:
    values = np.ones((10, 10), np.float32)
    values[6, 3] = 60
    region = choose(Relevance(values=values, size=(1000, 1000))).region
    assert region is not None
    assert region.corners == (250, 550, 450, 750)  # the cell, and half a cell around it


def test_a_region_is_not_drawn_in_to_one_cell_of_an_even_heap() -> None:
    values = np.ones((20, 20), np.float32)
    values[5:12, 5:12] = 40
    values[8, 8] = 90
    region = choose(Relevance(values=values, size=(1000, 1000))).region
    assert region is not None
    assert region.width >= 250  # the cell by itself would have given 150
