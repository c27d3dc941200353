"""A classification head: what an untrained one says, what a file may hold, and what is registered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from scanfleet.models import factory
from scanfleet.models.adapters.card import (
    CARD,
    HEAD,
    SETTINGS,
    WEIGHTS,
    AdapterCard,
    LoraSettings,
    read_adapter,
    read_card,
)
from scanfleet.models.adapters.card import write_adapter as write
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.lora import add_lora, save_lora
from scanfleet.models.scoring.head import Head, initial_head, read_head, write_head
from scanfleet.models.scoring.prefill import LabelHead, PrefillScorer
from scanfleet.models.types import Question
from tests.unit.models import tiny_models as tiny

QUESTION = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    max_pixels=100 * 100,
    order="instruction-first",
)
YES_NO = Question(
    name="q",
    prompt="Is it?",
    labels=("yes", "no"),
    flags=frozenset({"yes"}),
    max_pixels=100 * 100,
    order="instruction-first",
)
LORA = LoraSettings(r=4, lora_alpha=8, target_modules=FAMILIES["qwen3_vl"].language_linear)
N_FEATURES = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), precision="fp32", device="cpu")


def card(base: BaseModel, question: Question = QUESTION) -> AdapterCard:
    return AdapterCard(
        name="head",
        question=question,
        base_model=base.checkpoint.name,
        base_revision=base.checkpoint.revision,
    )


def some_head(seed: int) -> Head:
    torch.manual_seed(seed)
    return Head(weight=torch.randn(3, N_FEATURES), bias=torch.randn(3))


def features(scorer: PrefillScorer) -> torch.Tensor:
    with torch.inference_mode():
        return scorer.last_hidden([scorer.prepare(tiny.picture(90, 60, seed)) for seed in range(3)])


def margins(scorer: PrefillScorer) -> list[float]:
    return [reading.margin for reading in readings(scorer)]


def readings(scorer: PrefillScorer) -> list:
    return scorer.score([scorer.prepare(tiny.picture(90, 60, seed)) for seed in range(3)])


@pytest.mark.parametrize("question", [YES_NO, QUESTION])
def test_an_untrained_head_gives_the_margins_of_labels_with_one_spelling(
    base: BaseModel, question: Question, tmp_path: Path
) -> None:
    plain = factory.scorer(base, question)
    write(tmp_path, card=card(base, question), head=write_head(initial_head(base, question)))
    tokens = LabelHead(
        weight=base.network.get_output_embeddings().weight,
        token_ids=[[code.answer_id] for code in plain.prompt.codes],
        flags=[label in question.flags for label in question.labels],
    )
    with torch.inference_mode():
        logits, expected, _ = tokens(features(plain))
    found = readings(factory.scorer(base, question, tmp_path))
    assert [reading.margin for reading in found] == pytest.approx(expected.tolist(), abs=1e-6)
    assert torch.tensor([reading.logits for reading in found]).equal(logits)
    assert {reading.mass for reading in found} == {1.0}


def test_a_head_reads_the_hidden_state_of_the_frozen_base(base: BaseModel, tmp_path: Path) -> None:
    plain = factory.scorer(base, QUESTION)
    before, hidden, head = margins(plain), features(plain), some_head(1)
    write(tmp_path / "one", card=card(base), head=write_head(head))
    write(tmp_path / "two", card=card(base), head=write_head(some_head(2)))
    one, two = factory.scorer(base, QUESTION, tmp_path / "one"), factory.scorer(base, QUESTION, tmp_path / "two")
    expected = (hidden.double() @ head.weight.double().T + head.bias.double()).tolist()
    first = readings(one)
    for found, logits in zip(first, expected, strict=True):
        assert found.logits == pytest.approx(logits, abs=1e-4)
    assert margins(two) != pytest.approx([reading.margin for reading in first], abs=0.1)
    assert margins(plain) == before
    assert one.identity.adapter_sha256 != two.identity.adapter_sha256


def test_a_head_beside_a_lora_reads_the_tuned_base(folder: Path, base: BaseModel, tmp_path: Path) -> None:
    trained = load_base(str(folder), precision="fp32", device="cpu")
    model = add_lora(trained.network, LORA, name="default")
    torch.manual_seed(3)
    for key, tensor in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(tensor, std=0.2)
    head = some_head(1)
    bare = save_lora(tmp_path / "bare", model, card=card(base), lora=LORA)
    both = save_lora(tmp_path / "both", model, card=card(base), lora=LORA, head=write_head(head))
    write(tmp_path / "head", card=card(base), head=write_head(head))
    assert (bare.parts, both.parts) == (("lora",), ("lora", "head"))
    tuned, headed = factory.scorer(base, QUESTION, tmp_path / "bare"), factory.scorer(base, QUESTION, tmp_path / "both")
    assert torch.allclose(features(headed), features(tuned), atol=1e-5)
    expected = head.logits(features(tuned)).tolist()
    assert [list(reading.logits) for reading in readings(headed)] == [pytest.approx(row, abs=1e-4) for row in expected]
    assert margins(factory.scorer(base, QUESTION, tmp_path / "head")) != pytest.approx(margins(headed), abs=1e-2)


def test_a_released_head_is_forgotten(base: BaseModel, tmp_path: Path) -> None:
    write(tmp_path, card=card(base), head=write_head(some_head(4)))
    scorer = factory.scorer(base, QUESTION, tmp_path)
    assert margins(scorer)
    base.release(str(scorer.identity.adapter_sha256))
    with pytest.raises(ModelInvalid, match="not loaded"):
        margins(scorer)


# The folder


def test_the_digest_that_is_registered_covers_the_head(base: BaseModel, tmp_path: Path) -> None:
    written = [
        write(tmp_path / str(n), card=card(base), lora=LORA, weights=b"lora", head=write_head(some_head(n)))
        for n in range(2)
    ]
    without = write(tmp_path / "2", card=card(base), lora=LORA, weights=b"lora")
    alone = write(tmp_path / "3", card=card(base), head=b"lora")  # as bytes the same as the LoRA of the others
    assert len({each.weights_sha256 for each in (*written, without, alone)}) == 4
    body = bytearray((tmp_path / "0" / HEAD).read_bytes())
    body[-1] ^= 1
    (tmp_path / "0" / HEAD).write_bytes(bytes(body))
    with pytest.raises(ModelInvalid, match="restore the file"):
        read_adapter(tmp_path / "0")


def test_a_folder_says_what_it_holds(base: BaseModel, tmp_path: Path) -> None:
    write(tmp_path, card=card(base), lora=LORA, weights=b"lora", head=b"head")
    write(tmp_path, card=card(base), head=b"head")
    assert not (tmp_path / WEIGHTS).exists()
    assert not (tmp_path / SETTINGS).exists()
    found = read_adapter(tmp_path)
    assert (found.card.parts, found.lora, found.weights, found.head) == (("head",), None, None, b"head")


def test_a_file_that_the_card_does_not_list_is_refused(base: BaseModel, tmp_path: Path) -> None:
    write(tmp_path, card=card(base), lora=LORA, weights=b"lora")
    (tmp_path / HEAD).write_bytes(b"head")
    with pytest.raises(ModelInvalid, match=r"does not list it"):
        read_adapter(tmp_path)


def test_an_adapter_of_nothing_is_refused(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="a head, or both"):
        write(tmp_path, card=card(base))
    write(tmp_path, card=card(base), head=b"head")
    body = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(body | {"parts": []}))
    with pytest.raises(ModelInvalid, match="parts"):
        read_card(tmp_path)


@pytest.mark.parametrize("name", ["head.bin", "head.pt"])
def test_a_head_that_comes_as_a_pickle_is_never_opened(base: BaseModel, tmp_path: Path, name: str) -> None:
    write(tmp_path, card=card(base), head=b"head")
    (tmp_path / HEAD).rename(tmp_path / name)
    with pytest.raises(ModelInvalid, match="pickle, which can run code"):
        read_adapter(tmp_path)


def good() -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(3, N_FEATURES), "bias": torch.zeros(3)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: save(good() | {"weight": torch.zeros(2, N_FEATURES)}), r"weight \(2, 64\), this base and question"),
        (lambda: save(good() | {"weight": torch.zeros(3, 32)}), r"weight \(3, 32\), this base"),
        (lambda: save(good() | {"bias": torch.zeros(1)}), r"bias \(1,\)"),
        (lambda: save({"weight": good()["weight"]}), "head holds weight"),
        (lambda: save(good() | {"more": torch.zeros(1)}), "more"),
        (lambda: save({name: value.half() for name, value in good().items()}), "not in fp32"),
        (lambda: save(good() | {"bias": torch.tensor([0.0, float("nan"), 0.0])}), "not all finite"),
        (lambda: save(good() | {"bias": torch.tensor([0.0, float("inf"), 0.0])}), "not all finite"),
        (lambda: b"\x80\x04pickle", "not safetensors"),
        (lambda: b"", "not safetensors"),
    ],
)
def test_a_head_of_another_form_is_refused(
    base: BaseModel, tmp_path: Path, make: Callable[[], bytes], message: str
) -> None:
    write(tmp_path, card=card(base), head=make())
    with pytest.raises(ModelInvalid, match=message) as caught:
        factory.scorer(base, QUESTION, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_head_comes_back_as_it_was_written() -> None:
    head = some_head(5)
    found = read_head(write_head(head), question=QUESTION, features=N_FEATURES, where="here")
    assert torch.equal(found.weight, head.weight)
    assert torch.equal(found.bias, head.bias)
