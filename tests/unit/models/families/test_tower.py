"""LLaVA-1.5, LLaVA-NeXT and InternVL: what is cut, under which budget, and the kinds of checkpoint they come in."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import InternVLConfig, LlavaConfig, LlavaNextConfig, LlavaNextProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from scanfleet.models import factory
from scanfleet.models.errors import ImageUnsuitable, ModelInvalid
from scanfleet.models.families import FAMILIES, ImageReader
from scanfleet.models.families.llava_next import LlavaNextReader
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.scoring.box_format import Canvas, format_boxes, parse_boxes
from scanfleet.models.types import Box, Question
from tests.unit.models.checkpoints import TINY, internvl, llava, llava_next, reference
from tests.unit.models.tiny_models import picture

SIDE = 56
QUESTION = Question(name="q", prompt="Is it?", labels=("a", "b"), flags=frozenset({"a"}), max_pixels=40_000)
NAMES = ("internvl", "llava", "llava_next")
SIZES = ((100, 100), (300, 180), (64, 200), (90, 31), (57, 55), (800, 20))
CPU = torch.device("cpu")
RELEASED = [  # configuration, processor, and the tokens of a 900 x 450 image under 448 x 448 and 10^6 pixels
    (LlavaConfig(), CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=336), (576, 576)),
    (LlavaNextConfig(), LlavaNextImageProcessorPil(size={"shortest_edge": 336}), (1752, 1752)),
    (InternVLConfig(), GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}), (256, 768)),
]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BaseModel]:
    def made(name: str, **options: bool) -> BaseModel:
        folder = TINY[name].checkpoint(tmp_path_factory.mktemp("tiny") / name, **options)
        return load_base(str(folder), precision="fp32", device="cpu")

    return cache(made)


def settings_of_the_processor(name: str, max_pixels: int) -> dict[str, Any]:
    if name == "internvl":
        return {"crop_to_patches": True, "max_patches": max_pixels // SIDE**2 - 1}
    return {}


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_those_of_transformers_own_image_processor(load: Callable[..., BaseModel], name: str) -> None:
    reader = load(name).processor.reader
    for size in SIZES:
        prepared = reader.prepare(picture(*size, 1), max_pixels=40_000, min_pixels=1)
        found = reader.stack([prepared], device=CPU, dtype=torch.float32)["pixel_values"]
        expected = reader.image_processor(
            images=picture(*size, 1), return_tensors="pt", **settings_of_the_processor(name, 40_000)
        )["pixel_values"]
        assert torch.allclose(found, expected.flatten(0, -4), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [("llava", {"siglip": True}), ("llava", {"do_pad": True}), ("llava_next", {"vicuna": True})],
)
def test_other_kinds_of_checkpoint_equal_their_reference_too(
    load: Callable[..., BaseModel], name: str, options: dict[str, bool]
) -> None:
    base = load(name, **options)
    scorer = factory.scorer(base, QUESTION)
    images = [picture(*size, i) for i, size in enumerate(SIZES)]
    found = scorer.score([scorer.prepare(image) for image in images])
    expected = [reference(TINY[name], base, QUESTION, image) for image in images]
    assert [f.margin for f in found] == pytest.approx([e.margin for e in expected], abs=1e-4)
    assert [f.visual_tokens for f in found] == [e.visual_tokens for e in expected]


def test_another_vision_tower_is_refused_when_the_checkpoint_is_loaded(tmp_path: Path) -> None:
    folder = llava.checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] = {"model_type": "pixtral"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match=r"tower of type pixtral; use .* clip_vision_model or siglip_vision_model$"):
        load_base(str(folder), precision="fp32", device="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_a_language_model_with_an_attention_window_is_refused(name: str, tmp_path: Path) -> None:
    folder = TINY[name].checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] = {"model_type": "mistral", "sliding_window": 128}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match=r"tiny.* 128 tokens"):
        load_base(str(folder), precision="fp32", device="cpu")


# LLaVA-1.5


def test_llava_has_one_size_whatever_the_budget(load: Callable[..., BaseModel]) -> None:
    reader = load("llava").processor.reader
    for max_pixels in (1, 10**6):
        prepared = reader.prepare(picture(300, 180, 1), max_pixels=max_pixels, min_pixels=1)
        assert (prepared.resized_size, prepared.visual_tokens) == ((SIDE, SIDE), 16)


def test_llava_refuses_a_strip_before_it_spends_memory_on_it(load: Callable[..., BaseModel]) -> None:
    reader = load("llava").processor.reader
    strip = Image.new("RGB", (201, 1))
    with pytest.raises(ImageUnsuitable, match="image of 201 x 1 pixels"):
        reader.prepare(strip, max_pixels=1, min_pixels=1)
    assert reader.prepare(strip.crop((0, 0, 200, 1)), max_pixels=1, min_pixels=1).visual_tokens == 16


def test_llava_sees_the_corners_only_where_the_checkpoint_pads(load: Callable[..., BaseModel]) -> None:
    plain = picture(300, 100, 1)
    marked = plain.copy()
    marked.paste("red", (0, 0, 60, 60))

    def sees(reader: ImageReader) -> bool:
        first, second = (reader.prepare(image, max_pixels=1, min_pixels=1).pixels for image in (plain, marked))
        return not torch.equal(first, second)

    assert not sees(load("llava").processor.reader)
    assert sees(load("llava", do_pad=True).processor.reader)


def test_a_long_image_is_reduced_before_it_is_padded_to_a_square(load: Callable[..., BaseModel]) -> None:
    reader = load("llava", do_pad=True).processor.reader
    long = picture(30 * SIDE, 80, 1)
    found = reader.prepare(long, max_pixels=1, min_pixels=1).pixels[0].float()
    expected = reader.image_processor(images=long, return_tensors="pt", do_rescale=False, do_normalize=False)
    assert (found - expected["pixel_values"][0].float()).abs().mean() < 2  # of 255


# LLaVA-NeXT


def with_canvases(base: BaseModel, pinpoints: list[list[int]], image: Image.Image, question: Question) -> float:
    """The reference margin of a checkpoint that knows these canvases and no others."""
    config, processor = base.network.config, base.processor.reader.image_processor
    usual = config.image_grid_pinpoints
    config.image_grid_pinpoints = processor.image_grid_pinpoints = pinpoints
    try:
        return reference(TINY["llava_next"], base, question, image).margin
    finally:
        config.image_grid_pinpoints = processor.image_grid_pinpoints = usual


@pytest.mark.parametrize(("max_pixels", "allowed"), [(1, 2), (4 * SIDE**2, 4), (5 * SIDE**2, 5)])
def test_llava_next_chooses_among_the_canvases_of_its_budget(
    load: Callable[..., BaseModel], max_pixels: int, allowed: int
) -> None:
    base = load("llava_next")
    question = replace(QUESTION, max_pixels=max_pixels)
    scorer = factory.scorer(base, question)
    pinpoints = [p for p in llava_next.PINPOINTS if p[0] * p[1] <= max(max_pixels - SIDE**2, 2 * SIDE**2)]
    assert len(pinpoints) == allowed
    images = [picture(*size, i) for i, size in enumerate(SIZES)]
    found = [reading.margin for reading in scorer.score([scorer.prepare(image) for image in images])]
    assert found == pytest.approx([with_canvases(base, pinpoints, i, question) for i in images], abs=1e-4)


def test_llava_next_counts_tokens_as_its_own_processor_does_at_the_released_sizes(
    load: Callable[..., BaseModel], tmp_path: Path
) -> None:
    tokenizer = load("llava_next").processor.tokenizer
    LlavaNextConfig().save_pretrained(tmp_path)
    sizes = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    LlavaNextImageProcessorPil(**sizes).save_pretrained(tmp_path)
    reader = LlavaNextReader(tmp_path, tokenizer)
    theirs = LlavaNextProcessor(reader.image_processor, tokenizer, 14, "default", num_additional_image_tokens=1)
    rng = random.Random(3)
    shapes = [(rng.randint(1, 700), rng.randint(1, 700)) for _ in range(16)]
    expected = theirs._get_num_multimodal_tokens([(height, width) for width, height in shapes]).num_image_tokens
    found = [reader.prepare(Image.new("L", shape), max_pixels=10**7, min_pixels=1) for shape in shapes]
    assert [len(prepared.tokens) for prepared in found] == expected
    assert len(set(expected)) > 8


# InternVL


@pytest.mark.parametrize(("max_pixels", "tiles"), [(1, 1), (3 * SIDE**2 - 1, 1), (5 * SIDE**2, 4), (10**9, 12)])
def test_the_budget_of_internvl_is_a_number_of_tiles(
    load: Callable[..., BaseModel], max_pixels: int, tiles: int
) -> None:
    reader = load("internvl").processor.reader
    prepared = reader.prepare(picture(tiles * 100, 100, 1), max_pixels=max_pixels, min_pixels=1)
    whole = int(tiles > 1)  # one more tile shows the whole image
    assert prepared.pixels.shape == (tiles + whole, 3, SIDE, SIDE)
    assert prepared.resized_size == (tiles * SIDE, SIDE)
    assert prepared.visual_tokens == 4 * (tiles + whole) == len(prepared.tokens) - 2


def test_internvl_puts_its_marks_around_the_image(load: Callable[..., BaseModel]) -> None:
    base = load("internvl")
    prepared = base.processor.prepare(picture(60, 60, 1), max_pixels=1, min_pixels=1)
    ends = base.processor.tokenizer.convert_ids_to_tokens([prepared.tokens[0], prepared.tokens[-1]])
    assert ends == [internvl.TOKENS["start_image_token"], internvl.TOKENS["end_image_token"]]


# All


@pytest.mark.parametrize("name", NAMES)
def test_an_image_decoded_at_the_least_detail_is_cut_as_the_full_one(load: Callable[..., BaseModel], name: str) -> None:
    reader = load(name).processor.reader
    rng = random.Random(5)
    for max_pixels in (1, 20_000, 40_000):
        detail = reader.detail(max_pixels=max_pixels)
        for _ in range(8):
            width = rng.randint(detail.short_side, 4 * detail.short_side)
            height = max(detail.short_side, -(-detail.pixels // width)) + rng.randint(0, 9)
            sizes = [
                reader.prepare(Image.new("L", (width * n, height * n)), max_pixels=max_pixels, min_pixels=1)
                for n in (1, 2)
            ]
            assert sizes[0].resized_size == sizes[1].resized_size
            assert sizes[0].tokens == sizes[1].tokens


@pytest.mark.parametrize("name", ["internvl", "llava"])
def test_boxes_are_thousandths_also_where_a_family_was_taught_none(name: str) -> None:
    canvas = Canvas(original=(2000, 1000), resized=(336, 336))
    box = Box(x0=200, y0=100, x1=1000, y1=500, label="text")
    answer = format_boxes([box], family=FAMILIES[name], canvas=canvas)
    assert json.loads(answer)[0]["bbox_2d"] == [100, 100, 500, 500]
    assert parse_boxes(answer, family=FAMILIES[name], canvas=canvas, labels={"text"}).boxes == (box,)


@pytest.mark.parametrize(("config", "processor", "tokens"), RELEASED)
def test_tokens_at_the_released_sizes(
    config: Any, processor: Any, tokens: tuple[int, int], load: Callable[..., BaseModel], tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    family = FAMILIES[config.model_type]
    reader = family.reader(tmp_path, load(family.model_type).processor.tokenizer)
    image = Image.new("L", (900, 450))
    found = [reader.prepare(image, max_pixels=budget, min_pixels=1) for budget in (448 * 448, 10**6)]
    assert tuple(prepared.visual_tokens for prepared in found) == tokens
