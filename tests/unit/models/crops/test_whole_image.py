"""Whole images read again: tiles that miss nothing, and budgets that follow the lost edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from scanfleet.checks.crop import ADAPTED_LEAST
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.crops.whole_image import (
    ENOUGH_LOST_EDGES,
    ENOUGH_SHARPNESS,
    MAX_TILE_ASPECT,
    MAX_TILES,
    MIN_ADAPTED_GAIN,
    WHOLE_IMAGE_LOOKS,
    adapted_budget,
    adapted_pixels,
    lost_edge_share,
    tiling,
    whole_image_rows,
)
from scanfleet.models.families import FAMILIES, ImageReader
from scanfleet.models.relevance.regions import Region
from scanfleet.models.types import Question
from tests.unit.models import tiny_models as tiny

BUDGET = 320 * 320
QUESTION = Question(name="q", prompt="?", labels=("a", "b"), flags=frozenset({"a"}), max_pixels=BUDGET)
SIZES = ((6000, 4000), (500, 3000), (3000, 500), (512, 512), (2048, 1024), (300, 200), (1, 1), (10, 3000), (30_000, 60))


def sharpness(tile: Region, pixels: int) -> float:
    return min(1.0, (pixels / (tile.width * tile.height)) ** 0.5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pixels", [BUDGET, 448 * 448, 64 * 64])
def test_tiles_are_alike_and_cover_every_pixel(size: tuple[int, int], pixels: int) -> None:
    tiles = tiling(size, pixels=pixels)
    assert 1 <= len(tiles) <= MAX_TILES
    assert len({(tile.width, tile.height) for tile in tiles}) == 1
    for axis, length in enumerate(size):
        parts = sorted({(tile.corners[axis], tile.corners[axis + 2]) for tile in tiles})
        assert (parts[0][0], parts[-1][1]) == (0, length)
        least = 0.2 * (parts[0][1] - parts[0][0]) - 1  # a pixel of rounding
        assert all(end - start >= least for (_, end), (start, _) in pairwise(parts))
    assert len(set(tiles)) == len(tiles)


@pytest.mark.parametrize("size", [size for size in SIZES if max(size) < 20 * min(size)])
def test_no_tile_is_a_sliver(size: tuple[int, int]) -> None:
    for pixels in (BUDGET, 448 * 448, 1024 * 1024):
        tile = tiling(size, pixels=pixels)[0]
        assert max(tile.width, tile.height) <= MAX_TILE_ASPECT * min(tile.width, tile.height)


@pytest.mark.parametrize(
    ("size", "pixels", "count"),
    [
        ((6000, 4000), BUDGET, 16),
        ((500, 3000), 448 * 448, 6),
        ((3000, 500), 448 * 448, 6),
        ((512, 512), 448 * 448, 1),
        ((300, 200), BUDGET, 1),
    ],
)
def test_as_few_tiles_as_show_nearly_all(size: tuple[int, int], pixels: int, count: int) -> None:
    tiles = tiling(size, pixels=pixels)
    assert len(tiles) == count
    if count < MAX_TILES:
        assert sharpness(tiles[0], pixels) >= ENOUGH_SHARPNESS


def test_with_too_few_tiles_they_still_beat_the_first_pass() -> None:
    whole = Region(x0=0, y0=0, x1=6000, y1=4000)
    tile = tiling((6000, 4000), pixels=BUDGET)[0]
    assert sharpness(tile, BUDGET) > 3 * sharpness(whole, BUDGET)


def blank(size: tuple[int, int] = (1280, 960)) -> Image.Image:
    return Image.new("RGB", size, (90, 90, 90))


def with_large_square() -> Image.Image:
    image = blank()
    ImageDraw.Draw(image).rectangle((403, 307, 801, 705), fill=(250, 250, 250))
    return image


def with_hairs() -> Image.Image:
    """Lines of two pixels, which become a quarter of themselves."""
    image = blank()
    for x in range(50, 1250, 100):
        ImageDraw.Draw(image).line((x, 100, x, 860), fill=(250, 250, 250), width=2)
    return image


def test_contours_of_large_things_are_not_lost_and_hairs_are() -> None:
    assert lost_edge_share(blank(), 8.0) == 0
    assert lost_edge_share(with_large_square(), 8.0) == 0
    assert lost_edge_share(with_hairs(), 8.0) == 1
    both = with_large_square()
    both.paste(with_hairs().crop((0, 0, 300, 960)), (0, 0))
    assert 0.1 < lost_edge_share(both, 8.0) < 0.9


def test_hairs_are_not_lost_where_little_is_shrunk() -> None:
    assert lost_edge_share(with_hairs(), 1.0) == 0
    assert lost_edge_share(with_hairs(), 2.0) == 0


def test_noise_is_no_edge() -> None:
    grains = np.random.default_rng(0).normal(120, 8, (960, 1280, 1)).clip(0, 255).astype(np.uint8)
    assert lost_edge_share(Image.fromarray(grains.repeat(3, 2)), 8.0) == 0


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (2, 5000)])
def test_the_thinnest_images_have_a_budget_too(size: tuple[int, int]) -> None:
    found = adapted_budget(blank(size), budget=100, most=10_000)
    assert 100 <= found.pixels <= 10_000


SHARES = (0, 0.25, 0.5, 1)


def test_the_budget_lies_between_that_of_the_first_pass_and_all_pixels() -> None:
    size, most = (2000, 1000), 10_000_000
    found = [adapted_pixels(size, budget=BUDGET, edge_density=share * ENOUGH_LOST_EDGES, most=most) for share in SHARES]
    assert found[0] == BUDGET
    assert found[-1] == pytest.approx(2_000_000, rel=1e-5)
    assert found == sorted(set(found))
    assert found[2] == pytest.approx((BUDGET * 2_000_000) ** 0.5, rel=1e-5)  # half way, in times


def test_the_budget_keeps_its_limit_and_an_image_that_fits_gets_no_more() -> None:
    assert adapted_pixels((2000, 1000), budget=BUDGET, edge_density=1, most=300_000) == 300_000
    assert adapted_pixels((200, 100), budget=BUDGET, edge_density=1, most=300_000) == BUDGET


def test_more_shrinking_asks_for_more() -> None:
    sizes = [(400, 400), (800, 800), (1600, 1600), (6000, 4000)]
    found = [adapted_pixels(size, budget=BUDGET, edge_density=ENOUGH_LOST_EDGES / 2, most=10**8) for size in sizes]
    assert found == sorted(set(found))


def test_an_adaptation_says_what_it_follows_from() -> None:
    found = adapted_budget(with_hairs(), budget=160 * 120, most=10**7)
    assert (found.shrink, found.lost) == (8.0, 1.0)
    assert found.pixels == adapted_pixels((1280, 960), budget=160 * 120, edge_density=1, most=10**7)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ImageReader:
    folder: Path = tmp_path_factory.mktemp("reader")
    tokenizer = tiny.tokenizer()
    tiny.image_processor(16).save_pretrained(folder)
    tiny._config("qwen3_vl")[1].save_pretrained(folder)
    return FAMILIES["qwen3_vl"].reader(folder, tokenizer)


Tokens = Callable[..., list[int]]


@pytest.fixture
def tokens(reader: ImageReader) -> Tokens:
    def found(image: Image.Image, policy: CropPolicy, question: Question = QUESTION) -> list[int]:
        return [row.visual_tokens for row in whole_image_rows(image, reader=reader, question=question, policy=policy)]

    return found


def test_the_whole_at_a_larger_and_at_a_smaller_scale(tokens: Tokens) -> None:
    image = with_hairs()
    assert tokens(image, CropPolicy(look="larger", crop_pixels=640 * 640)) == [23 * 17]  # 736 x 544
    assert tokens(image, CropPolicy(look="larger", crop_pixels=160 * 160)) == [5 * 4]  # 160 x 128
    assert tokens(image, CropPolicy(look="larger", crop_pixels=32 * 32)) == [1]  # under the question's least


def test_a_row_for_each_tile(tokens: Tokens, reader: ImageReader) -> None:
    image, policy = tiny.picture(900, 600, 1), CropPolicy(look="tiles", crop_pixels=BUDGET)
    rows = whole_image_rows(image, reader=reader, question=QUESTION, policy=policy)
    tiles = tiling(image.size, pixels=BUDGET)
    assert [row.original_size for row in rows] == [(tile.width, tile.height) for tile in tiles]
    assert len({row.pixels.sum().item() for row in rows}) == len(rows) > 4
    assert max(tokens(image, policy)) <= 100


def test_an_adapted_pass_reads_more_only_where_edges_were_lost(tokens: Tokens) -> None:
    policy = CropPolicy(look="adapted", crop_pixels=600_000)
    small = replace(QUESTION, max_pixels=160 * 120)
    assert tokens(with_large_square(), policy, small) == []
    assert tokens(with_hairs(), policy, small) == [27 * 20]  # 864 x 640, of 600,000 pixels
    assert tokens(with_hairs(), replace(policy, crop_pixels=100_000), small) == [11 * 8]


@pytest.mark.parametrize("size", [(1, 1), (3000, 40), (160, 128)])
def test_an_image_read_at_full_size_is_not_read_again(tokens: Tokens, size: tuple[int, int]) -> None:
    image = tiny.picture(*size, 1)
    pixels = 2 * QUESTION.max_pixels
    assert [tokens(image, CropPolicy(look=look, crop_pixels=pixels)) for look in WHOLE_IMAGE_LOOKS] == [[], [], []]


def test_one_tile_is_read_where_it_shows_more(tokens: Tokens) -> None:
    image, small = tiny.picture(320, 256, 1), replace(QUESTION, max_pixels=160 * 120)
    policy = CropPolicy(look="tiles", crop_pixels=320 * 320)
    assert len(tokens(image, policy, small)) == 1


def test_an_adapted_pass_is_never_worth_less_than_a_check_may_ask_for() -> None:
    assert MIN_ADAPTED_GAIN == ADAPTED_LEAST


def test_no_whole_is_pointed() -> None:
    assert not any(CropPolicy(look=look).pointed for look in WHOLE_IMAGE_LOOKS)
