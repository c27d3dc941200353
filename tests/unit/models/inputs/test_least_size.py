"""The fewest pixels of an image: the check's, else those that the adapter learnt under, else the checkpoint's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, LoraSettings
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.lora import add_lora, save_lora, take_out
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Question
from scanfleet.worker.scoring.factory import knows, matches
from tests.unit.models import tiny_models as tiny

OPEN = Question(name="overlay", prompt="Is there text?", labels=("yes", "no"), flags=frozenset({"yes"}))
OLD = replace(OPEN, min_pixels=64 * 64)  # the default of former releases
OWN = 65_536  # of released Qwen3-VL
LORA = LoraSettings(r=4, lora_alpha=8, target_modules=FAMILIES["qwen3_vl"].language_linear)
SMALL = tiny.picture(100, 100, 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings["size"] = {"shortest_edge": OWN, "longest_edge": 16_777_216}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return load_base(str(folder), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def adapter(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained when a check that left the least size open meant 64 x 64."""
    folder = tmp_path_factory.mktemp("adapter")
    model = add_lora(base.network, LORA, name="default")
    torch.manual_seed(1)
    for key, tensor in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(tensor, std=0.2)
    card = AdapterCard(name="old", question=OLD, base_model="tiny", base_revision=base.checkpoint.revision)
    card = save_lora(folder, model, card=card, lora=LORA)
    take_out(base.network)
    assert matches(card, OPEN)
    assert not matches(card, replace(OPEN, min_pixels=OWN))
    assert knows(card, replace(OPEN, min_pixels=OWN))
    return folder


def tokens(scorer: PrefillScorer, image: Image.Image = SMALL) -> int:
    return scorer.prepare(image).visual_tokens


def margin(scorer: PrefillScorer) -> float:
    (reading,) = scorer.score([scorer.prepare(SMALL)])
    return reading.margin


def test_left_open_it_is_the_checkpoints_own(base: BaseModel) -> None:
    theirs = base.processor.reader.image_processor(images=SMALL, return_tensors="pt")["image_grid_thw"]
    assert tokens(factory.scorer(base, OPEN)) == int(theirs.prod()) // 4 == 64
    assert tokens(factory.scorer(base, OLD)) == 9


def test_the_pixel_budget_counts_more(base: BaseModel) -> None:
    scorer = factory.scorer(base, replace(OPEN, max_pixels=150 * 150))
    for size in ((20, 20), (100, 100), (100, 60), (400, 300)):
        width, height = scorer.prepare(tiny.picture(*size, 2)).resized_size
        assert 100 * 100 < width * height <= 150 * 150


def test_an_adapter_is_served_with_what_it_learnt_under(base: BaseModel, adapter: Path) -> None:
    served, old = factory.scorer(base, OPEN, adapter), factory.scorer(base, OLD, adapter)
    assert tokens(served) == 9
    assert margin(served) == margin(old)
    assert tokens(factory.scorer(base, replace(OPEN, min_pixels=OWN), adapter)) == 64
    assert tokens(factory.scorer(base, OPEN)) == 64
