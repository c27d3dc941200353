"""What decides a margin beside the tensors is part of an adapter's digest; files of earlier releases keep theirs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from scanfleet.errors import BadSource
from scanfleet.models import factory, pocket
from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.adapters.card import CARD, HEAD, SETTINGS, WEIGHTS, AdapterCard, read_adapter, write_adapter
from scanfleet.models.adapters.seal import seal_of, with_seal
from scanfleet.models.adapters.settings import LoraSettings
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import load_base
from scanfleet.models.types import Question
from scanfleet.storage.adapter_digest import digest_of

QUESTION = Question(name="c", prompt="Which?", labels=("a", "b"), flags=frozenset({"a"}))
LORA = LoraSettings(r=1, lora_alpha=2, target_modules=("q_proj", "k_proj"))
TENSORS = save({"x": torch.arange(6.0)})


def made(folder: Path, *, lora: LoraSettings | None = LORA, head: bytes | None = None, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "name": "one",
        "question": QUESTION,
        "base_model": "pocket",
        "base_revision": "r",
        "calibrator": Calibrator(a=1.5, b=-0.25, n=400, prevalence=0.5),
        "thresholds": Thresholds(review=-1.0, flag=2.0),
    }
    weights = None if lora is None else TENSORS
    write_adapter(folder, card=AdapterCard(**(fields | changes)), lora=lora, weights=weights, head=head)
    return folder


def made_before(folder: Path, *, recipe: dict[str, Any]) -> Path:
    """An adapter as the release before wrote it: the digest is that of plain tensors."""
    made(folder, recipe=recipe)
    (folder / WEIGHTS).write_bytes(TENSORS)
    edit(folder / CARD, lambda card: card.update(weights_sha256=hashlib.sha256(TENSORS).hexdigest()))
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def refused(folder: Path, name: str) -> None:
    """Both readers refuse the folder in one line that names the file."""
    for read, error in ((read_adapter, ModelInvalid), (digest_of, BadSource)):
        with pytest.raises(error, match="was altered after the adapter was made") as caught:  # type: ignore[call-overload]
            read(folder)
        assert str(folder / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora": LORA.model_copy(update={"lora_alpha": 4.0})},
        {"lora": LORA.model_copy(update={"use_rslora": True})},
        {"question": Question(name="c", prompt="What?", labels=("a", "b"), flags=frozenset({"a"}))},
        {"calibrator": None},
    ],
)
def test_the_same_tensors_under_other_settings_are_another_adapter(tmp_path: Path, changes: dict[str, Any]) -> None:
    one, other = made(tmp_path / "one"), made(tmp_path / "other", **changes)
    assert digest_of(one) != digest_of(other)
    assert digest_of(made(tmp_path / "again", name="two", metrics={"accuracy": 1.0})) == digest_of(one)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (SETTINGS, lambda body: body.update(lora_alpha=4.0)),
        (SETTINGS, lambda body: body.update(use_rslora=True)),
        (SETTINGS, lambda body: body.update(target_modules=["q_proj"])),
        (SETTINGS, lambda body: body.update(modules_to_save=["merger"])),
        (SETTINGS, lambda body: body.update(r=2)),
        (CARD, lambda body: body["question"].update(prompt="Is it?")),
        (CARD, lambda body: body["question"].update(labels=["b", "a"])),
        (CARD, lambda body: body["question"].update(descriptions={"a": "an a"})),
        (CARD, lambda body: body["calibrator"].update(a=3.0)),
        (CARD, lambda body: body.update(thresholds=None)),
    ],
)
def test_an_altered_file_is_refused_by_name(tmp_path: Path, name: str, change: Callable[[Any], object]) -> None:
    folder = made(tmp_path)
    edit(folder / name, change)
    refused(folder, name)


@pytest.mark.parametrize("recipe", ["alpha", ["alpha"]])
def test_a_card_of_another_shape_is_refused_in_one_line(tmp_path: Path, recipe: Any) -> None:
    folder = made(tmp_path)
    edit(folder / CARD, lambda body: body.update(question=["c"], recipe=recipe))
    with pytest.raises(BadSource, match="was altered"):
        digest_of(folder)


def test_what_decides_nothing_may_change(tmp_path: Path) -> None:
    folder = made(tmp_path)
    before = digest_of(folder)
    edit(
        folder / SETTINGS, lambda body: body.update(target_modules=["k_proj", "q_proj"], lora_dropout=0.5, revision="x")
    )
    edit(folder / CARD, lambda body: body.update(metrics={"accuracy": 0.5}))
    assert read_adapter(folder).card.weights_sha256 == digest_of(folder) == before


def test_a_head_seals_its_question(tmp_path: Path) -> None:
    folder = made(tmp_path, lora=None, head=save({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}))
    assert seal_of((folder / HEAD).read_bytes()) is not None
    edit(folder / CARD, lambda body: body["question"].update(labels=["b", "a"]))
    refused(folder, CARD)


def test_a_reader_of_the_release_before_finds_its_digest_and_tensors(tmp_path: Path) -> None:
    folder = made(tmp_path)
    data = (folder / WEIGHTS).read_bytes()
    card = json.loads((folder / CARD).read_text())
    assert card["weights_sha256"] == hashlib.sha256(data).hexdigest()
    assert card.keys() == AdapterCard.model_fields.keys() - {"canary"}
    assert torch.equal(load(data)["x"], torch.arange(6.0))


def test_an_adapter_of_the_release_before_keeps_its_identity(tmp_path: Path) -> None:
    folder = made_before(tmp_path, recipe={"name": "lora", "trains": "language", "alpha": 2.0})
    assert read_adapter(folder).card.weights_sha256 == digest_of(folder) == hashlib.sha256(TENSORS).hexdigest()
    edit(folder / SETTINGS, lambda body: body.update(lora_alpha=4.0))
    refused(folder, SETTINGS)


def test_a_recipe_that_says_nothing_about_the_lora_refuses_nothing(tmp_path: Path) -> None:
    folder = made_before(tmp_path, recipe={"name": "head", "trains": "head", "alpha": 32.0})
    assert read_adapter(folder).card.weights_sha256 == digest_of(folder)


@pytest.mark.parametrize("check", ["baggage", "overlay", "razor"])
def test_shipped_adapters_keep_their_digest_and_are_refused_when_altered(tmp_path: Path, check: str) -> None:
    copied = tmp_path / check
    shutil.copytree(pocket.adapter_folder(check), copied)
    assert digest_of(copied) == hashlib.sha256((copied / WEIGHTS).read_bytes()).hexdigest()
    edit(copied / SETTINGS, lambda body: body.update(lora_alpha=2 * body["lora_alpha"]))
    refused(copied, SETTINGS)


def test_an_adapter_in_memory_does_not_vouch_for_its_files(tmp_path: Path) -> None:
    copied = tmp_path / "overlay"
    shutil.copytree(pocket.adapter_folder("overlay"), copied)
    base = load_base("pocket", device="cpu")
    question = read_adapter(copied).card.question
    factory.scorer(base, question, copied)
    edit(copied / SETTINGS, lambda body: body.update(lora_alpha=128.0))
    with pytest.raises(ModelInvalid, match=r"lora_alpha is 128\.0, not 64"):
        factory.scorer(base, question, copied)


@pytest.mark.parametrize(
    "data", [b"", b"weights", b"\xff" * 16, b"\x02" + b"\0" * 7 + b"[]", b"\x09" + b"\0" * 7 + b"{"]
)
def test_bytes_that_are_no_safetensors_have_no_seal(data: bytes) -> None:
    assert with_seal(data, {"question": {}}) == data
    assert seal_of(data) is None


def test_a_seal_leaves_other_texts_of_the_header_and_replaces_itself() -> None:
    data = save({"x": torch.ones(3)}, metadata={"format": "pt"})
    sealed = with_seal(with_seal(data, {"question": {"a": 1}}), {"question": {"a": 2}})
    assert seal_of(sealed) == {"question": {"a": 2}}
    assert b'"format": "pt"' in sealed
    assert torch.equal(load(sealed)["x"], torch.ones(3))


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"name": "another"}, True),
        ({"descriptions": {"a": "a", "b": ""}}, True),
        ({"max_pixels": 100 * 100}, True),
        ({"descriptions": {"a": "an a"}}, False),
        ({"labels": ("b", "a")}, False),
        ({"flags": frozenset({"b"})}, False),
    ],
)
def test_an_adapter_answers_what_reads_alike(changes: dict[str, Any], alike: bool) -> None:
    card = AdapterCard(name="one", question=QUESTION, base_model="pocket", base_revision="r")
    assert card.answers(replace(QUESTION, **changes)) is alike
