"""A crop pass by a policy: the crop and its size, the rows, the cost of the map, and the models."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, LoraSettings, read_card, write_adapter
from scanfleet.models.crops.batch import run_crop_pass
from scanfleet.models.crops.cutting import SLIMMEST, cut, region_of
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.errors import ImageUnsuitable, ModelInvalid
from scanfleet.models.families import PreparedImage, PreparedRow
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.network.lora import add_lora, save_lora
from scanfleet.models.relevance.regions import Region
from scanfleet.models.scoring.head import Head, write_head
from scanfleet.models.types import CropReader, Pointed, Question, Reading, Step
from tests.unit.models import tiny_models as tiny

QUESTION = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    max_pixels=200 * 200,
)
PAIR = CropPolicy(crop_pixels=200 * 200, context_pixels=120 * 120)
UNIT = 28 * 28  # pixels of a token of the tiny model
ANYWHERE = Pointed(corners=(40, 40, 80, 80), size=(300, 200))
LARGE = [(6000, 4000), (500, 3000), (3000, 500)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen2_vl")


@pytest.fixture(scope="module")
def load(folder: Path) -> Callable[[str], BaseModel]:
    return cache(lambda precision: load_base(str(folder), precision=cast(Precision, precision), device="cpu"))


@pytest.fixture
def base(load: Callable[[str], BaseModel]) -> BaseModel:
    return load("fp32")


def spotted(width: int, height: int, seed: int) -> Image.Image:
    """A plain picture with one busy spot, so that its map points somewhere."""
    image = Image.new("RGB", (width, height), (90, 100, 110))
    image.paste(tiny.picture(width // 4, height // 4, seed), (width // 2, height // 3))
    return image


# Cutting


def test_a_small_region_is_magnified_to_the_budget_and_never_over_it() -> None:
    image = tiny.picture(640, 480, 1)
    for side in (1, 9, 90, 200):
        crop = cut(image, Region(x0=30, y0=40, x1=30 + side, y1=40 + side), pixels=448 * 448)
        assert 0.98 * 448 * 448 < crop.width * crop.height <= 448 * 448


def test_magnifying_shows_the_same_place() -> None:
    image = Image.new("RGB", (400, 400), "blue")
    image.paste("red", (100, 200, 190, 290))
    crop = np.asarray(cut(image, Region(x0=100, y0=200, x1=190, y1=290), pixels=448 * 448))
    assert (crop == (255, 0, 0)).all()


def test_a_region_of_more_pixels_than_the_budget_keeps_them_for_the_processor_to_shrink() -> None:
    assert cut(tiny.picture(900, 700, 1), Region(x0=0, y0=0, x1=800, y1=600), pixels=200 * 200).size == (800, 600)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_any_mode_is_cut_to_rgb(mode: str) -> None:
    crop = cut(Image.new(mode, (300, 300)), Region(x0=0, y0=0, x1=50, y1=50), pixels=200 * 200)
    assert (crop.mode, crop.size) == ("RGB", (200, 200))


def test_every_region_lies_in_the_image_and_no_crop_is_a_sliver() -> None:
    rng = random.Random(5)
    for _ in range(300):
        seen, size = ((rng.randint(1, 900), rng.randint(1, 900)) for _ in range(2))
        (x0, x1), (y0, y1) = (sorted((rng.randint(0, side), rng.randint(0, side))) for side in seen)
        region = region_of(Pointed(corners=(x0, y0, x1, y1), size=seen), size)
        assert region is not None
        assert 0 <= region.x0 < region.x1 <= size[0]
        assert 0 <= region.y0 < region.y1 <= size[1]
        crop = cut(Image.new("RGB", size), region, pixels=1)
        slimmest = max(SLIMMEST + 1, max(size) / min(size))
        assert max(crop.size) <= slimmest * min(crop.size)


def test_a_region_is_the_same_part_of_the_image_at_any_size() -> None:
    pointed = Pointed(corners=(60, 20, 120, 80), size=(600, 400))
    assert region_of(pointed, (6000, 4000)) == Region(x0=600, y0=200, x1=1200, y1=800)
    assert region_of(pointed, (600, 400)) == Region(x0=60, y0=20, x1=120, y1=80)


# Rows


def images_in(row: object) -> tuple[PreparedImage, ...]:
    assert isinstance(row, PreparedRow)
    return row.images


def test_a_pair_is_the_original_and_the_magnified_crop_each_within_its_budget(base: BaseModel) -> None:
    crop_reader = factory.crop_reader(base, QUESTION, PAIR)
    image = tiny.picture(300, 200, 1)
    (row,) = crop_reader.rows(image, ANYWHERE)
    context, crop = images_in(row)
    assert context.original_size == image.size
    assert PAIR.context_pixels // UNIT * 0.7 <= context.visual_tokens <= PAIR.context_pixels // UNIT
    assert PAIR.crop_pixels // UNIT * 0.9 <= crop.visual_tokens <= PAIR.crop_pixels // UNIT
    expected = cut(image, Region(x0=40, y0=40, x1=80, y1=80), pixels=PAIR.crop_pixels)
    again = base.processor.prepare(expected, max_pixels=PAIR.crop_pixels, min_pixels=1)
    assert torch.equal(crop.pixels, again.pixels)


@pytest.mark.parametrize(("look", "rows"), [("crop", 1), ("reweight", 1), ("larger", 1), ("tiles", 4)])
def test_every_other_policy_gives_rows_that_the_scorer_reads(base: BaseModel, look: str, rows: int) -> None:
    policy = replace(PAIR, look=look, crop_pixels=240 * 240)  # type: ignore[arg-type]
    crop_reader = factory.crop_reader(base, QUESTION, policy)
    found = crop_reader.rows(tiny.picture(600, 600, 1), ANYWHERE if crop_reader.pointed else None)
    assert len(found) >= rows
    assert all(np.isfinite(reading.margin) for reading in factory.scorer(base, QUESTION).score(found))


@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("corners", [(0, 0, 1, 1), (-1, -1, 0, 0)])
def test_single_pixels_of_large_images_are_read_at_every_border(
    base: BaseModel, size: tuple[int, int], corners: tuple[int, int, int, int]
) -> None:
    x0, y0 = (start % side for start, side in zip(corners[:2], size, strict=True))
    pointed = Pointed(corners=(x0, y0, x0 + 1, y0 + 1), size=size)
    (row,) = factory.crop_reader(base, QUESTION, PAIR).rows(Image.new("RGB", size), pointed)
    assert images_in(row)[1].visual_tokens > 0.9 * PAIR.crop_pixels // UNIT


def test_without_a_region_there_are_no_rows_and_the_first_pass_stands(base: BaseModel) -> None:
    crop_reader = factory.crop_reader(base, QUESTION, PAIR)
    first = Reading(margin=1.0, logits=(1.0, 0.0, 0.0), mass=1.0, visual_tokens=9)
    rows = crop_reader.rows(tiny.picture(90, 90, 1), Pointed(corners=None, size=(90, 90), why_not="diffuse"))
    assert rows == ()
    assert crop_reader.fuse(first, ()) is first


def test_a_strip_that_the_model_cannot_take_is_an_unsuitable_image(base: BaseModel) -> None:
    first = Reading(margin=1.0, logits=(1.0, 0.0, 0.0), mass=1.0, visual_tokens=9)
    with pytest.raises(ImageUnsuitable):
        factory.crop_reader(base, QUESTION, PAIR).views(Image.new("RGB", (3000, 10)), first)


def test_steps_and_unknown_layers_are_refused_before_any_image(base: BaseModel) -> None:
    steps = (
        Step(prompt="?", answers=(("yes", "next"), ("no", "none"))),
        Step(prompt="?", answers=(("yes", "overlay"), ("no", "natural"))),
    )
    with pytest.raises(ModelInvalid, match=r"has steps.*crop"):
        factory.crop_reader(base, replace(QUESTION, steps=steps), PAIR)
    with pytest.raises(ModelInvalid, match="no layer 7"):
        factory.crop_reader(base, QUESTION, replace(PAIR, layers=(7,)))


# Pointing


def test_a_map_of_the_recorded_first_pass_is_free_and_any_other_costs_what_it_states(base: BaseModel) -> None:
    image = spotted(300, 200, 1)
    costs = {"recorded": 0, "not recorded": 1, "generic": 1, "grad-att": 1, "pure-grad": 3}
    policies = dict.fromkeys(costs, PAIR) | {
        "generic": replace(PAIR, reference="generic"),
        "grad-att": replace(PAIR, method="grad-att"),
        "pure-grad": replace(PAIR, method="pure-grad"),
    }
    for name, times in costs.items():
        policy = policies[name]
        scorer = factory.scorer(base, QUESTION, policy=None if name == "not recorded" else policy)
        (first,) = scorer.score([scorer.prepare(image)])
        crop_reader = factory.crop_reader(base, QUESTION, policy)
        views = crop_reader.views(image, first)
        (pointed,) = crop_reader.point([views])
        assert pointed.tokens == times * first.visual_tokens, name
        assert views.visual_tokens == max(1, pointed.tokens)


def test_tiles_get_a_map_each_and_are_counted(base: BaseModel) -> None:
    policy = replace(PAIR, tiled=True)
    scorer, crop_reader = factory.scorer(base, QUESTION, policy=policy), factory.crop_reader(base, QUESTION, policy)
    assert (scorer.detail, crop_reader.views_detail) != (None, scorer.detail)
    image = spotted(3000, 500, 1)
    (first,) = scorer.score([scorer.prepare(image)])
    views = crop_reader.views(image, first)
    (pointed,) = crop_reader.point([views])
    assert len(views.images) == 3
    assert pointed.tokens == views.visual_tokens == sum(tile.visual_tokens for tile in views.images)
    assert pointed.size == image.size
    small = crop_reader.views(spotted(300, 200, 2), first)
    assert len(small.images) == 1


@pytest.mark.parametrize("tiled", [False, True])
def test_pointing_is_the_same_alone_in_company_and_from_two_lanes_at_once(base: BaseModel, tiled: bool) -> None:
    policy = replace(PAIR, tiled=tiled, reference="generic")
    scorer, crop_reader = factory.scorer(base, QUESTION), factory.crop_reader(base, QUESTION, policy)
    images = [spotted(300, 200, 1), spotted(1700, 300, 2), spotted(200, 390, 3)]
    views = [
        crop_reader.views(*each) for each in zip(images, scorer.score(list(map(scorer.prepare, images))), strict=True)
    ]
    alone = [crop_reader.point([view])[0] for view in views]
    with ThreadPoolExecutor(2) as threads:
        tasks = [threads.submit(crop_reader.point, views[::order]) for order in (1, -1, 1, -1)]
        found = [task.result()[::order] for task, order in zip(tasks, (1, -1, 1, -1), strict=True)]
    for together in found:
        assert [pointed.corners for pointed in together] == [pointed.corners for pointed in alone]
        assert [pointed.sharpness for pointed in together] == pytest.approx(
            [pointed.sharpness for pointed in alone], rel=1e-3
        )


# Over which models


def margins(base: BaseModel, adapter: Path | None) -> list[float]:
    """Of the fused answers to pictures that are read again at one place."""
    scorer, crop_reader = (
        factory.scorer(base, QUESTION, adapter, policy=PAIR),
        factory.crop_reader(base, QUESTION, PAIR, adapter),
    )
    found = []
    for seed in range(3):
        image = tiny.picture(300, 200, seed)
        (first,) = scorer.score([scorer.prepare(image)])
        assert crop_reader.point([crop_reader.views(image, first)])[0].tokens == 0
        second = scorer.score(crop_reader.rows(image, ANYWHERE))
        both = crop_reader.fuse(first, second)
        assert both.visual_tokens == first.visual_tokens + second[0].visual_tokens
        found.append(both.margin)
    return found


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_a_quantised_base_reads_crops_as_a_full_precision_one(load: Callable[[str], BaseModel], precision: str) -> None:
    whole, quantised = margins(load("fp32"), None), margins(load(precision), None)
    assert whole != quantised
    assert np.corrcoef(whole, quantised)[0, 1] > 0.5


def card(base: BaseModel) -> AdapterCard:
    return AdapterCard(
        name="a", question=QUESTION, base_model=base.checkpoint.name, base_revision=base.checkpoint.revision
    )


def test_an_adapter_beside_the_weights_gives_what_a_merged_one_does(folder: Path, tmp_path: Path) -> None:
    merging, beside, other = (load_base(str(folder), precision="fp32", device="cpu") for _ in range(3))
    beside.merges = False
    lora = LoraSettings(r=4, lora_alpha=8, target_modules=other.family.language_linear)
    made = add_lora(other.network, lora, name="default")
    torch.manual_seed(1)
    for name, tensor in made.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    save_lora(tmp_path, made, card=card(other), lora=lora)
    adapted = margins(merging, tmp_path)
    assert margins(beside, tmp_path) == pytest.approx(adapted, abs=1e-4)
    assert beside.unmerged
    assert all(abs(a - b) > 0.01 for a, b in zip(adapted, margins(merging, None), strict=True))


def test_a_head_answers_in_both_passes(base: BaseModel, tmp_path: Path) -> None:
    torch.manual_seed(3)
    head = Head(weight=torch.randn(3, base.n_features), bias=torch.randn(3))
    write_adapter(tmp_path, card=card(base), head=write_head(head))
    assert read_card(tmp_path).question == QUESTION
    assert all(abs(a - b) > 0.01 for a, b in zip(margins(base, tmp_path), margins(base, None), strict=True))


def test_a_crop_pass_from_end_to_end_equals_its_parts(base: BaseModel) -> None:
    policy = replace(PAIR, look="tiles", fuse="max")
    scorer = factory.scorer(base, QUESTION)
    crop_reader: CropReader = factory.crop_reader(base, QUESTION, policy)
    images = [tiny.picture(300, 200, 1), tiny.picture(90, 90, 2)]
    firsts = scorer.score([scorer.prepare(image) for image in images])
    for image, first, looked in zip(images, firsts, run_crop_pass(scorer, crop_reader, images, firsts), strict=True):
        rows = crop_reader.rows(image, None)
        assert looked.tokens == sum(row.visual_tokens for row in rows)
        best = max([first, *looked.second], key=lambda look: look.margin)
        assert looked.fused.margin == best.margin
        expected = [scorer.score([cast(PreparedImage, row)])[0].margin for row in rows]
        assert [look.margin for look in looked.second] == pytest.approx(expected, abs=1e-4)
