"""Activated LoRA: PEFT's own numbers, the base's keys and values, several adapters in one pass, refusals by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load as load_tensors

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, LoraSettings, read_adapter, write_adapter
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import FAMILIES, PreparedRow
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.lora import add_lora, save_lora, take_out
from scanfleet.models.relevance.pixel_gradient import pixel_gradient
from scanfleet.models.relevance.prompt_runner import PromptRunner
from scanfleet.models.scoring.head import Head, write_head
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.scoring.together import Together
from scanfleet.models.types import Question
from tests.unit.models import tiny_models
from tests.unit.models.checkpoints import TINY, read_last

SIZES = ((100, 100), (300, 180), (64, 200), (90, 31))
FP32, BF16, PEFTS = 1e-5, 0.05, 1e-4  # logits
Load = Callable[..., BaseModel]


def question(name: str, *labels: str, prompt: str, order: Any = "image-first") -> Question:
    flags = frozenset(labels[:1])
    return Question(name=name, prompt=prompt, labels=labels, flags=flags, max_pixels=200 * 200, order=order)


TEXT = question("text", "yes", "no", prompt="Is there text?")
KIND = question("kind", "overlay", "natural", "none", prompt="What kind of text does the picture hold, if any?")
SHORT = question("short", "x", "y", prompt="Now?")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    root = tmp_path_factory.mktemp("activated")
    folder = cache(lambda family: TINY[family].checkpoint(root / family))
    return cache(
        lambda family, precision="fp32", n=0: load_base(str(folder(family)), precision=precision, device="cpu")
    )


def adapter(folder: Path, base: BaseModel, asked: Question, *, seed: int = 1, **changes: Any) -> Path:
    """Random factors in the language model, which act from the question's first token on."""
    invocation = base.processor.prompt(asked).turn.after
    settings = {"r": 4, "lora_alpha": 8, "target_modules": base.family.language_linear}
    lora = LoraSettings(**(settings | {"alora_invocation_tokens": invocation} | changes))
    model = add_lora(base.network, lora, name="default")
    torch.manual_seed(seed)
    for name, tensor in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    card = AdapterCard(name="a", question=asked, base_model="tiny", base_revision=base.checkpoint.revision)
    save_lora(folder, model, card=card, lora=lora)
    take_out(base.network)
    return folder


def pictures() -> list[Image.Image]:
    return [tiny_models.picture(w, h, i) for i, (w, h) in enumerate(SIZES)]


def margins(scorer: PrefillScorer) -> list[float]:
    return [reading.margin for reading in scorer.score([scorer.prepare(picture) for picture in pictures()])]


@contextmanager
def pefts_own(base: BaseModel, folder: Path) -> Iterator[Any]:
    """Yield PEFT's aLoRA over the plain network."""
    read = read_adapter(folder)
    assert read.lora is not None
    config = LoraConfig(
        r=read.lora.r,
        lora_alpha=int(read.lora.lora_alpha),
        target_modules=read.lora.target_modules,
        alora_invocation_tokens=list(read.lora.alora_invocation_tokens or ()),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base.network, config)
    tensors = load_tensors(read.weights or b"")
    found = model.load_state_dict(
        {name.replace(".weight", ".default.weight"): value for name, value in tensors.items()}, strict=False
    )
    assert not found.unexpected_keys
    assert not [key for key in found.missing_keys if "lora_" in key]
    try:
        yield model.eval()
    finally:
        take_out(base.network)


@torch.inference_mode()
def margin_of(model: Any, inputs: dict[str, Any], base: BaseModel, asked: Question) -> float:
    """The whole prompt in one forward, no cache, every logit."""
    last = model(**inputs).logits[0, -1].double()
    return read_last(last, base.processor.prompt(asked), asked, 0).margin


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl", "qwen2_5_vl", "llava"])
def test_it_answers_as_pefts_own_forward(load: Load, family: str, tmp_path: Path) -> None:
    base, other = load(family), load(family, n=1)
    made = adapter(tmp_path, other, KIND)
    text = other.processor.prompt(KIND).turn.text
    rows = [TINY[family].reference_inputs(other, text, picture, KIND) for picture in pictures()]
    with pefts_own(other, made) as model:
        expected = [margin_of(model, row, other, KIND) for row in rows]
    found = margins(factory.scorer(base, KIND, made))
    assert found == pytest.approx(expected, abs=PEFTS)
    plain = margins(factory.scorer(base, KIND))
    assert all(abs(a - b) > 0.01 for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_it_acts_beside_weights_of_any_precision(load: Load, precision: str, tmp_path: Path) -> None:
    base = load("qwen3_vl", precision)
    made = adapter(tmp_path, load("qwen3_vl", n=1), KIND)
    scorers = [factory.scorer(base, KIND, made), factory.scorer(base, TEXT)]
    compare(scorers, base, within=BF16)
    plain = margins(factory.scorer(base, KIND))
    assert all(abs(a - b) > BF16 for a, b in zip(plain, margins(scorers[0]), strict=True))


def compare(scorers: list[PrefillScorer], base: BaseModel, *, within: float) -> None:
    images = [scorers[0].prepare(picture) for picture in pictures()]
    together = Together(base=base, scorers=scorers).score(images)
    for scorer, found in zip(scorers, together, strict=True):
        for image, reading in zip(images, found, strict=True):
            (alone,) = scorer.score([image])
            assert reading.logits == pytest.approx(alone.logits, abs=within)
            assert reading.mass == pytest.approx(alone.mass, abs=within)


def several(load: Load, folder: Path) -> list[PrefillScorer]:
    """Adapters of several ranks and targets, one under a head, an adapter of the usual kind, a head and the base."""
    base, other = load("qwen3_vl"), load("qwen3_vl", n=1)
    made = adapter(folder / "under", other, TEXT, seed=4)
    torch.manual_seed(3)
    head = write_head(Head(weight=torch.randn(2, base.n_features), bias=torch.randn(2)))
    card = AdapterCard(name="h", question=TEXT, base_model="tiny", base_revision=base.checkpoint.revision)
    under = read_adapter(made)
    write_adapter(folder / "over", card=card, lora=under.lora, weights=under.weights, head=head)
    write_adapter(folder / "head", card=card, head=head)
    return [
        factory.scorer(base, TEXT),
        factory.scorer(base, KIND, adapter(folder / "kind", other, KIND, seed=1)),
        factory.scorer(base, SHORT, adapter(folder / "rank", other, SHORT, seed=2, r=2, use_rslora=True)),
        factory.scorer(base, TEXT, adapter(folder / "few", other, TEXT, seed=3, target_modules=r".*layers\.1.*v_proj")),
        factory.scorer(base, TEXT, folder / "over"),
        factory.scorer(base, SHORT, adapter(folder / "plain", other, SHORT, seed=5, alora_invocation_tokens=None)),
        factory.scorer(base, TEXT, folder / "head"),
    ]


def test_several_adapters_share_a_pass_and_answer_as_each_alone(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, scorers = load("qwen3_vl"), several(load, tmp_path)
    for order in list(permutations(range(len(scorers))))[::719]:
        compare([scorers[i] for i in order], base, within=FP32)
    images = [scorers[0].prepare(picture) for picture in pictures()]
    tower = base.network.get_submodule("model.visual.merger")
    layer = base.network.get_submodule("model.language_model.layers.0")
    calls: dict[str, int] = {"tower": 0, "language": 0}
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
        for name, module in (("tower", tower), ("language", layer))
    ]
    shared = [scorer for scorer in scorers if scorer.identity.adapter_sha256 not in base.loaded]
    assert len(shared) == len(scorers) - 1
    Together(base=base, scorers=shared).score(images)
    for handle in handles:
        handle.remove()
    assert calls == {"tower": 1, "language": 2}  # the images, and all questions behind them
    monkeypatch.setattr("scanfleet.models.scoring.together.AT_ONCE", 1)
    compare(scorers, base, within=FP32)


def test_neither_neighbours_nor_adapters_in_use_change_it(load: Load, tmp_path: Path) -> None:
    plain, activated, *_, usual, _ = several(load, tmp_path)
    before, alone = margins(plain), margins(activated)
    images = [activated.prepare(picture) for picture in pictures()]
    assert [activated.score([image])[0].margin for image in images] == pytest.approx(alone, abs=FP32)
    backwards = [reading.margin for reading in activated.score(images[::-1])]
    assert backwards[::-1] == pytest.approx(alone, abs=FP32)
    margins(usual)
    assert margins(activated) == alone
    assert margins(plain) == before


def test_a_released_adapter_is_asked_no_more(load: Load, tmp_path: Path) -> None:
    base, scorers = load("qwen3_vl"), several(load, tmp_path)
    together = Together(base=base, scorers=scorers)
    images = [scorers[0].prepare(picture) for picture in pictures()]
    base.release(str(scorers[2].identity.adapter_sha256))
    with pytest.raises(ModelInvalid, match="is not loaded"):
        scorers[2].score(images)
    with pytest.raises(ModelInvalid, match="is not loaded"):
        together.score(images)


def test_an_adapter_of_another_invocation_is_refused_by_name(load: Load, tmp_path: Path) -> None:
    base, other = load("qwen3_vl"), load("qwen3_vl", n=1)
    whole = base.processor.prompt(KIND).turn.after
    wrong = {"elsewhere": whole[3:9], "unknown": (*whole[:4], 5), "again": whole[-1:]}
    for name, tokens in wrong.items():
        made = adapter(tmp_path / name, other, KIND, alora_invocation_tokens=tokens)
        with pytest.raises(ModelInvalid, match=rf"{name}/adapter_config.json: its alora_invocation_tokens.*'kind'"):
            factory.scorer(base, KIND, made)
    first = adapter(tmp_path / "first", other, KIND, alora_invocation_tokens=whole[:6])
    assert margins(factory.scorer(base, KIND, first)) == pytest.approx(
        margins(factory.scorer(base, KIND, adapter(tmp_path / "whole", other, KIND))), abs=FP32
    )
    tower = adapter(tmp_path / "tower", other, KIND, target_modules=r".*visual\..*linear_fc1")
    with pytest.raises(ModelInvalid, match="adapts the tower"):
        factory.scorer(base, KIND, tower)
    embeddings = adapter(tmp_path / "embeddings", other, KIND, target_modules=r".*embed_tokens")
    with pytest.raises(ModelInvalid, match="linear layers alone, not embed_tokens"):
        factory.scorer(base, KIND, embeddings)


def test_the_invocation_is_sealed_and_a_plain_lora_keeps_its_digest(load: Load, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a", load("qwen3_vl", n=1), KIND)
    settings = made / "adapter_config.json"
    text = settings.read_text(encoding="utf-8")
    read = read_adapter(made)
    assert read.lora is not None
    first = read.lora.alora_invocation_tokens or ()
    settings.write_text(text.replace(f"\n    {first[-1]}\n", f"\n    {first[-1] + 1}\n"), encoding="utf-8")
    with pytest.raises(ModelInvalid, match=r"adapter_config.json was altered.*alora_invocation_tokens"):
        read_adapter(made)
    plain = read.lora.model_copy(update={"alora_invocation_tokens": None})
    assert "alora_invocation_tokens" not in plain.deciding()
    with pytest.raises(ValueError, match="modules_to_save"):
        LoraSettings.model_validate(read.lora.model_dump() | {"modules_to_save": ("merger",)})


@pytest.mark.slow
def test_every_family_that_reads_images_first_takes_it(load: Load, tmp_path: Path) -> None:
    for family in FAMILIES:
        base, other = load(family), load(family, n=1)
        made = adapter(tmp_path / family, other, KIND)
        scorers = [factory.scorer(base, KIND, made), factory.scorer(base, TEXT)]
        compare(scorers, base, within=FP32)
        assert margins(scorers[0]) != pytest.approx(margins(factory.scorer(base, KIND)), abs=0.01)
        base.release(str(scorers[0].identity.adapter_sha256))


def test_pairs_and_maps_read_the_adapter(load: Load, tmp_path: Path) -> None:
    base, other = load("qwen3_vl"), load("qwen3_vl", n=1)
    made = adapter(tmp_path, other, KIND)
    scorer, plain = factory.scorer(base, KIND, made), factory.scorer(base, KIND)
    images = [scorer.prepare(picture) for picture in pictures()[:2]]
    runners = [PromptRunner(base=base, scorer=each, turn=each.prompt.turn) for each in (scorer, plain)]
    maps = [runner.attention(images, (0, 1)) for runner in runners]
    scorer.record_layers = (0, 1)
    for reading, ours, theirs in zip(scorer.score(images), *maps, strict=True):
        assert reading.attention == pytest.approx(ours, abs=1e-6)
        assert ours != pytest.approx(theirs, abs=1e-6)
    ours, theirs = (pixel_gradient(runner, images[0]) for runner in runners)
    assert np.isfinite(ours).all()
    assert ours != pytest.approx(theirs, rel=0.01)
    scorer = factory.scorer(base, KIND, made)
    scorer.prompt = replace(scorer.prompt, turn=replace(scorer.prompt.turn, before=()))
    pair = [PreparedRow(images=tuple(images))]
    rows = base.processor.rows(scorer.prompt.turn, pair, device=base.device, dtype=torch.float32)
    with pefts_own(other, made) as model:
        assert scorer.score(pair)[0].margin == pytest.approx(margin_of(model, rows.inputs, other, KIND), abs=PEFTS)


@pytest.mark.slow
def test_a_text_that_does_not_invoke_it_is_the_bases_to_answer(load: Load, tmp_path: Path) -> None:
    base, other = load("qwen3_vl"), load("qwen3_vl", n=1)
    made = adapter(tmp_path / "a", other, KIND)
    usual = adapter(tmp_path / "usual", other, KIND, alora_invocation_tokens=None)
    images = [factory.scorer(base, KIND).prepare(picture) for picture in pictures()]
    found = [
        [answer.ids for answer in factory.finder(base, KIND, folder).generate(images)] for folder in (None, made, usual)
    ]
    assert found[1] == found[0] != found[2]
