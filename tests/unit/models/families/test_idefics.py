"""Idefics2, Idefics3 and SmolVLM: crops and tiles within the budget, and images that look like padding."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import TINY
from tests.unit.models.tiny_models import picture

NAMES = ("idefics2", "idefics3", "smolvlm")
CPU = torch.device("cpu")
QUESTION = Question(name="q", prompt="?", labels=("a", "b"), flags=frozenset({"a"}), max_pixels=40_000)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BaseModel]:
    def made(name: str) -> BaseModel:
        folder: Path = TINY[name].checkpoint(tmp_path_factory.mktemp("tiny") / name)
        return load_base(str(folder), precision="fp32", device="cpu")

    return cache(made)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_zero_after_normalisation_is_no_padding(load: Callable[[str], BaseModel], name: str) -> None:
    base = load(name)
    scorer = factory.scorer(base, QUESTION)
    processor = base.processor.reader.image_processor
    items = [scorer.prepare(image) for image in (Image.new("RGB", (90, 70)), picture(90, 70, 1))]
    usual = processor.image_mean
    try:
        processor.image_mean = [1e-7] * 3  # black is almost zero: the model cannot mistake it
        expected, other = scorer.score(items)
        processor.image_mean = [0.0] * 3
        (alone,), (found, _) = scorer.score(items[:1]), scorer.score(items)
    finally:
        processor.image_mean = usual
    assert [alone.margin, found.margin] == pytest.approx([expected.margin] * 2, abs=1e-3)
    assert abs(found.margin - other.margin) > 0.05


def test_a_window_shorter_than_a_prompt_is_refused(tmp_path: Path) -> None:
    folder = TINY["idefics2"].checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["sliding_window"] = 128
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match="128 tokens"):
        load_base(str(folder), precision="fp32", device="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_with_room_enough_the_checkpoint_s_own_cuts_are_made(load: Callable[[str], BaseModel], name: str) -> None:
    reader = load(name).processor.reader
    for image in (picture(100, 60, 1), picture(333, 777, 2), picture(9, 200, 3)):
        prepared = reader.prepare(image, max_pixels=10**7, min_pixels=1)
        expected = reader.image_processor(images=[image], return_tensors="pt")
        found = reader.stack([prepared], device=CPU, dtype=torch.float32)
        shown = expected["pixel_attention_mask"][0].bool()[:, None].expand(-1, 3, -1, -1)
        assert torch.allclose(found["pixel_values"][:, 0][shown], expected["pixel_values"][0][shown], atol=1e-6)
        assert found["pixel_values"].shape[0] == expected["pixel_values"].shape[1]


@pytest.mark.parametrize("name", NAMES)
def test_all_that_the_vision_tower_reads_stays_within_the_budget(load: Callable[[str], BaseModel], name: str) -> None:
    reader = load(name).processor.reader
    rng = random.Random(3)
    seen = set()
    for _ in range(60):
        budget = rng.choice((3_200, 5_000, 12_000, 30_000, 60_000))
        image = Image.new("RGB", (rng.randint(1, 900), rng.randint(1, 900)))
        prepared = reader.prepare(image, max_pixels=budget, min_pixels=1)
        read = sum(h * w for h, w in prepared.extra) if prepared.extra else prepared.pixels.numel() // 3
        assert 0 < read <= budget
        seen.add(len(prepared.pixels))
    assert seen == {1, 5} if name == "idefics2" else len(seen) > 3


def test_a_checkpoint_that_does_not_split_gives_one_crop(load: Callable[[str], BaseModel]) -> None:
    for name in NAMES:
        reader = load(name).processor.reader
        reader.image_processor.do_image_splitting = False
        try:
            prepared = reader.prepare(picture(300, 200, 1), max_pixels=10**7, min_pixels=1)
            (expected,) = reader.image_processor(images=[picture(300, 200, 1)], return_tensors="pt")["pixel_values"]
            found = reader.stack([prepared], device=CPU, dtype=torch.float32)["pixel_values"][0]
        finally:
            reader.image_processor.do_image_splitting = True
        assert torch.allclose(found, expected, atol=1e-6)
        assert prepared.tokens.count(reader.image_token_id) == prepared.visual_tokens
