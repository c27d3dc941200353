"""Several questions in one pass answer as each alone: every family, both orders, adapters, heads, odd companies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, LoraSettings, write_adapter
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.lora import add_lora, save_lora, take_out
from scanfleet.models.scoring.head import Head, write_head
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.scoring.together import Together
from scanfleet.models.types import Question
from tests.unit.models import tiny_models
from tests.unit.models.checkpoints import TINY

SIZES = ((100, 100), (300, 180), (64, 200), (90, 31))
FP32, BF16 = 1e-5, 0.05  # logits
LANGUAGE, TOWER = r".*language_model.*[qv]_proj", r".*visual\..*linear_fc1"
Load = Callable[..., BaseModel]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    root = tmp_path_factory.mktemp("together")
    folder = cache(lambda family: TINY[family].checkpoint(root / family))
    return cache(lambda family, precision="fp32": load_base(str(folder(family)), precision=precision, device="cpu"))


def question(name: str, *labels: str, prompt: str = "Is there text?", **more: Any) -> Question:
    return Question(name=name, prompt=prompt, labels=labels, flags=frozenset(labels[:1]), max_pixels=200 * 200, **more)


QUESTIONS = (
    question("text", "yes", "no"),
    question("kind", "overlay", "natural", "none", prompt="What kind of text does the picture hold, if it holds any?"),
    question("first", "yes", "no", order="instruction-first"),
    question("also", "a", "b", "c", "d", prompt="Which?", order="instruction-first"),
    question("short", "x", "y", prompt="Now?"),
)


@contextmanager
def counted(base: BaseModel, name: str) -> Any:
    """Count the forwards of a module."""
    calls: list[int] = []
    handle = base.network.get_submodule(name).register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def compare(scorers: Sequence[PrefillScorer], base: BaseModel, *, within: float) -> None:
    images = [scorers[0].prepare(tiny_models.picture(w, h, i)) for i, (w, h) in enumerate(SIZES)]
    alone = [scorer.score(images) for scorer in scorers]
    together = Together(base=base, scorers=scorers).score(images)
    for one, other in zip(alone, together, strict=True):
        assert max(r.margin for r in one) - min(r.margin for r in one) > 10 * FP32, "alike images would prove nothing"
        for reading, expected in zip(other, one, strict=True):
            assert reading.logits == pytest.approx(expected.logits, abs=within)
            assert reading.margin == pytest.approx(expected.margin, abs=within)
            assert reading.mass == pytest.approx(expected.mass, abs=within)
            assert reading.visual_tokens == expected.visual_tokens


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_questions_together_answer_as_each_alone(load: Load, family: str, precision: str) -> None:
    if precision in FAMILIES[family].precisions:
        base = load(family, precision)
        scorers = [factory.scorer(base, each) for each in QUESTIONS]
        compare(scorers, base, within=FP32 if precision == "fp32" else BF16)


def test_neither_order_nor_neighbours_nor_parts_count(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load("qwen3_vl")
    scorers = [factory.scorer(base, each) for each in QUESTIONS]
    for order in list(permutations(range(len(scorers))))[::29]:
        compare([scorers[i] for i in order], base, within=FP32)
    monkeypatch.setattr("scanfleet.models.scoring.together.AT_ONCE", 1)
    compare(scorers, base, within=FP32)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava", "llava_next", "internvl", "idefics3"])
def test_the_tower_runs_once(load: Load, family: str) -> None:
    base = load(family)
    scorers = [factory.scorer(base, each) for each in QUESTIONS]
    images = [scorers[0].prepare(tiny_models.picture(w, h, i)) for i, (w, h) in enumerate(SIZES)]
    for parts in FAMILIES[family].vision:
        inner = next(name for name, _ in base.network.get_submodule(parts).named_modules() if name)
        with counted(base, f"{parts}.{inner}") as alone:
            scorers[0].score(images)
        with counted(base, f"{parts}.{inner}") as calls:
            Together(base=base, scorers=scorers).score(images)
        assert len(calls) == len(alone) > 0


def lora(base: BaseModel, folder: Path, asked: Question, targets: str, seed: int) -> Path:
    settings = LoraSettings(r=4, lora_alpha=8, target_modules=targets)
    model = add_lora(base.network, settings, name="default")
    torch.manual_seed(seed)
    for name, tensor in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    card = AdapterCard(name="a", question=asked, base_model="tiny", base_revision=base.checkpoint.revision)
    save_lora(folder, model, card=card, lora=settings)
    take_out(base.network)
    return folder


def test_adapters_and_heads_share_what_they_do_not_change(load: Load, tmp_path: Path) -> None:
    base, other = load("qwen3_vl"), load_base(str(load("qwen3_vl").checkpoint.folder), precision="fp32", device="cpu")
    text, kind, first, also, short = QUESTIONS
    scorers = [
        factory.scorer(base, text),
        factory.scorer(base, kind, lora(other, tmp_path / "language", kind, LANGUAGE, 1)),
        factory.scorer(base, first),
        factory.scorer(base, also),
        factory.scorer(base, short, lora(other, tmp_path / "tower", short, TOWER, 2)),
    ]
    torch.manual_seed(3)
    head = Head(weight=torch.randn(2, base.n_features), bias=torch.randn(2))
    card = AdapterCard(name="h", question=text, base_model="tiny", base_revision=base.checkpoint.revision)
    write_adapter(tmp_path / "head", card=card, head=write_head(head))
    scorers.append(factory.scorer(base, text, tmp_path / "head"))
    plain = factory.scorer(base, short)
    compare([*scorers, plain], base, within=FP32)
    assert base.with_own_tower == {scorers[4].identity.adapter_sha256}
    images = [plain.prepare(tiny_models.picture(*size, 1)) for size in SIZES]
    assert plain.score(images)[0].margin != pytest.approx(scorers[4].score(images)[0].margin, abs=0.01)


def test_questions_of_other_pixel_budgets_are_refused(load: Load) -> None:
    base = load("qwen3_vl")
    scorers = [factory.scorer(base, each) for each in (QUESTIONS[0], replace(QUESTIONS[1], max_pixels=100 * 100))]
    with pytest.raises(ValueError, match="2 sizes"):
        Together(base=base, scorers=scorers)
