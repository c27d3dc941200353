"""The shipped pocket model: it loads, is small, answers by letters, and its adapters do what docs/pocket.md says."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

import scanfleet
from bench.pocket import fresh, measure
from scanfleet.models import factory, pocket
from scanfleet.models.adapters.card import read_adapter, read_card
from scanfleet.models.inputs.sources import folder_revision
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.questions import QUESTIONS, RAZOR
from scanfleet.models.pocket.recipe import load_recipe
from scanfleet.models.pocket.scenes import razor
from scanfleet.models.pocket.scenes.canvas import BICUBIC
from scanfleet.models.pocket.scenes.planted import Planted
from scanfleet.models.relevance.prompt_runner import PromptRunner
from scanfleet.models.types import Question
from tools.pocket.acuity import auroc, crop_box, densest_holds

SEED = 5000  # never used in training, calibration or the figures of docs/pocket.md


@pytest.fixture(scope="module")
def base() -> BaseModel:
    torch.set_num_threads(1)
    return load_base("pocket")


def test_the_whole_folder_fits_in_twelve_megabytes() -> None:
    size = sum(path.stat().st_size for path in pocket.folder().rglob("*") if path.is_file())
    assert 2_000_000 < size <= 12 * 1024 * 1024


@pytest.mark.parametrize("check", sorted(QUESTIONS))
def test_the_questions_are_the_built_in_checks(check: str) -> None:
    path = Path(scanfleet.__file__).parent / "builtin" / f"{check}.toml"
    told = tomllib.loads(path.read_text(encoding="utf-8"))
    question = QUESTIONS[check]
    assert (question.name, question.prompt, list(question.labels)) == (told["name"], told["prompt"], told["labels"])
    assert question.flags == set(told["flags"])
    assert dict(question.descriptions) == told["descriptions"]
    assert question.max_pixels == told["max_pixels"]
    targets = load_recipe()["calibration"]
    assert targets["target_recall"][check] == told["target_recall"]
    assert targets["target_precision"][check] == told["target_precision"]


@pytest.mark.parametrize("check", sorted(QUESTIONS))
def test_an_adapter_belongs_to_the_shipped_base_and_sits_where_the_recipe_says(check: str) -> None:
    adapter = read_adapter(pocket.adapter_folder(check))
    assert adapter.card.base_revision == folder_revision(pocket.folder())
    assert adapter.card.learnt == QUESTIONS[check]
    assert adapter.card.calibrator is not None
    names = [key for key in load(adapter.weights) if "lora_A" in key]
    part = load_recipe()["adapter"]
    assert sum("visual" in name for name in names) == part["vision_matches"]
    assert sum("language_model" in name for name in names) == part["language_matches"]


@pytest.mark.parametrize(("check", "at_least"), [("overlay", 0.68), ("baggage", 0.76)])
def test_an_adapter_answers_fresh_pictures(base: BaseModel, check: str, at_least: float) -> None:
    """60 pictures: at the documented accuracy, falling below the bound by chance is rarer than one in a thousand."""
    scorer = factory.scorer(base, QUESTIONS[check], pocket.adapter_folder(check))
    summary = measure(scorer, fresh(check, SEED, [(128, 128, 40), (224, 224, 20)])).summary()
    figure = "accuracy" if check == "overlay" else "flag_accuracy"
    assert summary[figure]["value"] >= at_least, summary
    assert summary["mean_mass"] > 0.99


@pytest.mark.slow
def test_a_small_part_is_found_first_and_told_by_a_crop(base: BaseModel) -> None:
    """The first pass identifies large parts, and locates small ones; a crop identifies these."""
    scorer = factory.scorer(base, RAZOR, pocket.adapter_folder("razor"))
    whole = measure(scorer, fresh("razor", SEED, [(320, 320, 20), (256, 384, 10)])).summary()
    assert whole["accuracy"]["value"] >= 0.75, whole
    rng = random.Random(SEED)
    pictures = [_small_part(index) for index in range(32)]
    blades = [picture.label == "blade" for picture in pictures]
    views = [scorer.prepare(picture.image) for picture in pictures]
    crops = [picture.image.resize((192, 192), BICUBIC, crop_box(rng, picture)) for picture in pictures]
    first = auroc([reading.margin for reading in scorer.score(views)], blades)
    crop = auroc([reading.margin for reading in scorer.score([scorer.prepare(image) for image in crops])], blades)
    assert first < 0.8  # what little it can tell is coarse
    assert crop >= max(0.85, first + 0.1)
    runner = PromptRunner(base=base, scorer=scorer, turn=scorer.prompt.turn)
    maps = zip(pictures, views, runner.attention(views, (1, 2)), strict=True)
    found = [densest_holds(values.reshape(view.grid), picture, 3) for picture, view, values in maps if picture.box]
    assert np.mean(found) >= 0.6  # by chance one in eleven


def _small_part(index: int) -> Planted:
    scene = razor.draw(SEED, index, 960, 960, share=(0.018, 0.03))
    return Planted(image=scene.image, label=scene.label, box=next(iter(scene.boxes), None), make=scene.style)


@pytest.mark.parametrize("check", ["overlay", "baggage"])
def test_the_base_alone_answers_by_a_letter_but_does_not_know_the_check(base: BaseModel, check: str) -> None:
    summary = measure(factory.scorer(base, QUESTIONS[check]), fresh(check, SEED, [(128, 128, 30)])).summary()
    assert summary["mean_mass"] > 0.8
    assert summary["accuracy"]["value"] < 0.8


@pytest.mark.parametrize("check", sorted(QUESTIONS))
def test_canary_margins_come_out_again(base: BaseModel, check: str) -> None:
    folder = pocket.adapter_folder(check)
    canary = read_card(folder).canary
    assert canary is not None
    tuned, bare = factory.scorer(base, QUESTIONS[check], folder), factory.scorer(base, QUESTIONS[check])
    with_adapter, without = [], []
    for name in canary.images:
        with Image.open(folder / name) as image:
            prepared = tuned.prepare(image)
        with_adapter.append(tuned.score([prepared])[0].margin)
        without.append(bare.score([prepared])[0].margin)
    assert np.abs(np.subtract(with_adapter, canary.margins)).max() < 0.05
    assert np.abs(np.subtract(with_adapter, without)).mean() > 0.5


def test_a_hundred_and_ten_labels_get_single_token_codes(base: BaseModel) -> None:
    labels = tuple(f"flower {n}" for n in range(110))
    question = Question(name="many", prompt="Which flower is this?", labels=labels, flags=frozenset())
    codes = base.processor.prompt(question).codes
    assert len({code.answer_id for code in codes}) == 110


def test_any_text_survives_the_tokenizer(base: BaseModel) -> None:
    tokenizer = base.processor.tokenizer
    text = "Prüfung 42: ¿qué? 日本語 🙂\n\tA) x"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer) <= 2048
