"""Adapters: written, verified, loaded whole or refused, switched under one base, absent for the base alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from scanfleet.models import factory
from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.adapters.canary import CanaryResult, try_canary
from scanfleet.models.adapters.card import (
    CARD,
    SETTINGS,
    WEIGHTS,
    AdapterCard,
    Canary,
    LoraSettings,
    read_adapter,
    read_card,
    write_adapter,
)
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.lora import adapter_state, add_lora, save_lora, take_out
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Question
from tests.unit.models import tiny_models as tiny

QUESTION = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    descriptions={"none": "no text"},
    max_pixels=100 * 100,
)
LORA = LoraSettings(r=4, lora_alpha=8, target_modules=FAMILIES["qwen3_vl"].language_linear)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")


@pytest.fixture(scope="module")
def revision(folder: Path) -> str:
    return load_base(str(folder), precision="fp32", device="cpu").checkpoint.revision


def card(revision: str, **changes: Any) -> AdapterCard:
    fields: dict[str, Any] = {
        "name": "first",
        "question": QUESTION,
        "base_model": "tiny",
        "base_revision": revision,
        "calibrator": Calibrator(a=1.5, b=-0.25, n=400, prevalence=0.5),
        "thresholds": Thresholds(review=-1.0, flag=2.0),
        "metrics": {"accuracy": 0.9},
        "recipe": {"name": "lora", "steps": 10},
        "canary": Canary(images=("canary/0.png",), margins=(0.5,)),
    }
    return AdapterCard(**(fields | changes))


def make_adapter(into: Path, base_folder: Path, revision: str, *, seed: int, lora: LoraSettings = LORA) -> Path:
    """An adapter with random weights of both factors, made by PEFT on the tiny model itself."""
    base = load_base(str(base_folder), precision="fp32", device="cpu")
    model = add_lora(base.network, lora, name="default")
    torch.manual_seed(seed)
    for key, tensor in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(tensor, std=0.2)
    save_lora(into, model, card=card(revision, name=f"seed {seed}"), lora=lora)
    return into


@pytest.fixture(scope="module")
def adapters(folder: Path, revision: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return (
        make_adapter(root / "one", folder, revision, seed=1),
        make_adapter(root / "two", folder, revision, seed=2),
    )


@pytest.fixture
def copied(adapters: tuple[Path, Path], tmp_path: Path) -> Path:
    for path in adapters[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def base(folder: Path) -> BaseModel:
    return load_base(str(folder), precision="fp32", device="cpu")


def margins(scorer: PrefillScorer) -> list[float]:
    images = [scorer.prepare(tiny.picture(90, 60, i)) for i in range(3)]
    return [reading.margin for reading in scorer.score(images)]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


# Reading and writing


def test_a_card_comes_back_as_it_was_written(tmp_path: Path, revision: str) -> None:
    written = write_adapter(tmp_path, card=card(revision), lora=LORA, weights=b"weights")
    found = read_adapter(tmp_path)
    assert found.card == written
    assert found.lora == LORA
    assert found.weights == b"weights"
    assert json.loads((tmp_path / CARD).read_text())["calibrator"]["method"] == "platt"


def test_a_card_without_the_optional_parts(tmp_path: Path, revision: str) -> None:
    bare = card(revision, calibrator=None, thresholds=None, canary=None, metrics={}, recipe={})
    write_adapter(tmp_path, card=bare, lora=LORA, weights=b"w")
    assert "canary" not in json.loads((tmp_path / CARD).read_text())
    assert read_card(tmp_path).calibrator is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "format"),
        (lambda c: c.pop("name"), "name: Field required"),
        (lambda c: c.update(surprise=1), "surprise"),
        (lambda c: c["question"].update(labels=["only one"]), "at least two labels"),
        (lambda c: c["question"].update(flags=["gun"]), "flags"),
        (lambda c: c["question"].update(max_pixels="9"), "question.max_pixels"),
        (lambda c: c["question"].update(crop=True), "question.crop"),
        (lambda c: c["calibrator"].update(a=-1.0), "a > 0"),
        (lambda c: c["calibrator"].update(method="isotonic"), "calibrator.method"),
        (lambda c: c["calibrator"].update(prevalence=0.0), "prevalence"),
        (lambda c: c["thresholds"].update(review=5.0), "review threshold"),
        (lambda c: c.update(weights_sha256="abc"), "weights_sha256"),
        (lambda c: c["canary"].update(images=["../../etc/passwd"]), "inside the adapter folder"),
        (lambda c: c["canary"].update(margins=[]), "one margin"),
    ],
)
def test_a_faulty_card_names_file_and_field_in_one_line(copied: Path, change: Any, message: str) -> None:
    edit(copied / CARD, change)
    with pytest.raises(ModelInvalid, match=message) as caught:
        read_adapter(copied)
    assert str(copied / CARD) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(peft_type="IA3"), "must be LORA"),
        (lambda c: c.update(use_dora=True), "use_dora is set"),
        (lambda c: c.update(layer_replication=[[0, 2]]), "layer_replication is set"),
        (lambda c: c.update(bias="all"), "bias is set"),
        (lambda c: c.update(r=0), "r: "),
        (lambda c: c.update(target_modules=[]), "target_modules"),
    ],
)
def test_lora_settings_outside_the_allow_list_are_refused(copied: Path, change: Any, message: str) -> None:
    edit(copied / SETTINGS, change)
    with pytest.raises(ModelInvalid, match=message):
        read_adapter(copied)


def test_a_settings_file_written_by_peft_itself_is_read(copied: Path, base: BaseModel) -> None:
    model = add_lora(base.network, LORA, name="default")
    model.peft_config["default"].save_pretrained(copied)
    assert read_adapter(copied).lora == LORA


@pytest.mark.parametrize("name", [CARD, SETTINGS, WEIGHTS])
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(ModelInvalid, match=f"{name} is missing"):
        read_adapter(copied)


def test_an_adapter_that_comes_as_a_pickle_is_never_opened(copied: Path) -> None:
    (copied / WEIGHTS).unlink()
    (copied / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelInvalid, match="pickle"):
        read_adapter(copied)


def test_weights_that_do_not_match_their_digest_are_refused(copied: Path) -> None:
    body = bytearray((copied / WEIGHTS).read_bytes())
    body[-1] ^= 1
    (copied / WEIGHTS).write_bytes(bytes(body))
    with pytest.raises(ModelInvalid, match="sha256"):
        read_adapter(copied)


# Loading and switching


def test_adapters_switch_under_one_base_and_the_base_alone_stays_itself(
    base: BaseModel, adapters: tuple[Path, Path]
) -> None:
    alone = factory.scorer(base, QUESTION)
    before = margins(alone)
    one, two = (factory.scorer(base, QUESTION, adapter) for adapter in adapters)
    assert margins(alone) == before  # bit for bit: no LoRA module takes part
    first, second = margins(one), margins(two)
    assert all(abs(a - b) > 1e-3 for a, b in zip(first, before, strict=True))
    assert all(abs(a - b) > 1e-3 for a, b in zip(first, second, strict=True))
    for _ in range(2):
        assert margins(two) == second
        assert margins(alone) == before
        assert margins(one) == first


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_scores_as_peft_itself_does(base: BaseModel, folder: Path, adapters: tuple[Path, Path]) -> None:
    ours = margins(factory.scorer(base, QUESTION, adapters[0]))
    fresh = load_base(str(folder), precision="fp32", device="cpu")
    fresh.network = PeftModel.from_pretrained(fresh.network, adapters[0]).eval().base_model.model
    asked = read_card(adapters[0]).learnt
    assert margins(factory.scorer(fresh, asked)) == pytest.approx(ours, abs=1e-5)


def test_a_scorer_says_which_adapter_it_is(base: BaseModel, adapters: tuple[Path, Path]) -> None:
    scorers = [factory.scorer(base, QUESTION, adapter) for adapter in adapters]
    assert [s.identity.adapter_sha256 for s in scorers] == [read_card(a).weights_sha256 for a in adapters]


def test_the_same_adapter_is_loaded_once(base: BaseModel, adapters: tuple[Path, Path]) -> None:
    first = margins(factory.scorer(base, QUESTION, adapters[0]))
    size = sum(p.numel() for p in base.network.parameters())
    assert margins(factory.scorer(base, QUESTION, adapters[0])) == first
    assert sum(p.numel() for p in base.network.parameters()) == size


def test_a_released_adapter_leaves_memory_and_its_scorer_says_so(base: BaseModel, adapters: tuple[Path, Path]) -> None:
    size = sum(p.numel() for p in base.network.parameters())
    alone, one = factory.scorer(base, QUESTION), factory.scorer(base, QUESTION, adapters[0])
    before, with_one = margins(alone), margins(one)
    assert one.identity.adapter_sha256 is not None
    base.release(one.identity.adapter_sha256)
    assert sum(p.numel() for p in base.network.parameters()) == size
    assert margins(alone) == before
    with pytest.raises(ModelInvalid, match="not loaded"):
        margins(one)
    assert margins(factory.scorer(base, QUESTION, adapters[0])) == with_one


@pytest.mark.parametrize("precision", ["bf16", "nf4", "int8"])
def test_an_adapter_over_each_precision(folder: Path, adapters: tuple[Path, Path], precision: Any) -> None:
    base = load_base(str(folder), precision=precision, device="cpu")
    alone, one, two = factory.scorer(base, QUESTION), *(factory.scorer(base, QUESTION, adapter) for adapter in adapters)
    before, first, second = margins(alone), margins(one), margins(two)
    assert before != first != second
    assert margins(alone) == before
    assert margins(one) == first


# The canary


def with_canary(folder: Path, base: BaseModel) -> Canary:
    """Store what the adapter says of three images, as the end of a training would."""
    names = tuple(f"canary/{i}.png" for i in range(3))
    (folder / "canary").mkdir()
    for i, name in enumerate(names):
        tiny.picture(90, 60, i).save(folder / name)
    return Canary(images=names, margins=tuple(margins(factory.scorer(base, QUESTION, folder))))


def test_a_sound_adapter_passes_its_canary(base: BaseModel, copied: Path) -> None:
    canary = with_canary(copied, base)
    found = try_canary(
        canary, copied, adapter=factory.scorer(base, QUESTION, copied), base=factory.scorer(base, QUESTION)
    )
    assert found.max_shift < 1e-4
    assert found.mean_effect > 0.1  # a random adapter of a random model
    assert (found.n, found.against) == (3, "fp32")
    assert found.mean_shift <= found.max_shift
    assert replace(found, mean_effect=0.6).problem() is None


SHIFTED = CanaryResult(precision="fp32", against="fp32", n=16, max_shift=0.01, mean_shift=0.01, mean_effect=3.0)


@pytest.mark.parametrize(
    ("precision", "against", "max_shift", "mean_shift", "passes"),
    [
        ("fp32", "fp32", 0.04, 0.02, True),
        ("fp32", "fp32", 0.06, 0.02, False),
        ("fp32", "bf16", 0.2, 0.02, True),  # the stored margins are the rough ones
        ("bf16", "fp32", 0.2, 0.02, True),
        ("bf16", "fp32", 0.3, 0.02, False),
        ("nf4", "fp32", 0.3, 0.1, True),
        ("nf4", "fp32", 0.4, 0.3, False),  # all of them moved, not one
        ("fp32", "fp32", float("nan"), float("nan"), False),
    ],
)
def test_a_canary_may_move_as_far_as_the_rougher_of_two_precisions(
    precision: str, against: str, max_shift: float, mean_shift: float, passes: bool
) -> None:
    found = replace(SHIFTED, precision=precision, against=against, max_shift=max_shift, mean_shift=mean_shift)
    problem = found.problem()
    assert (problem is None) is passes
    assert passes or "the canary's margins moved" in str(problem)


def test_a_canary_notices_other_numbers_and_an_adapter_without_effect(base: BaseModel, copied: Path) -> None:
    canary = with_canary(copied, base)
    adapter, alone = factory.scorer(base, QUESTION, copied), factory.scorer(base, QUESTION)
    moved = Canary(images=canary.images, margins=tuple(margin + 0.1 for margin in canary.margins))
    assert "moved by up to 0.100" in str(try_canary(moved, copied, adapter=adapter, base=alone).problem())
    idle = Canary(images=canary.images, margins=tuple(margins(alone)))
    problem = str(try_canary(idle, copied, adapter=alone, base=alone).problem())
    assert "hardly moves" in problem
    assert "another recipe" in problem  # the same labels, recipe and seed would give the same adapter


def test_a_canary_without_its_image_is_refused(base: BaseModel, copied: Path) -> None:
    canary = with_canary(copied, base)
    (copied / canary.images[1]).unlink()
    with pytest.raises(ModelInvalid, match=r"canary/1\.png is missing"):
        try_canary(canary, copied, adapter=factory.scorer(base, QUESTION, copied), base=factory.scorer(base, QUESTION))


# Refusals


def reseal(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Other weights with a card that vouches for them: damage that only the model can notice."""
    save_file(tensors, folder / WEIGHTS)
    found = read_card(folder)
    write_adapter(folder, card=found, lora=LORA, weights=(folder / WEIGHTS).read_bytes())


def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace("language_model.layers", "layers"): value for key, value in tensors.items()}


def one_more(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 64)}


def one_less(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(tensors.items())[1:])


def another_shape(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first = next(iter(tensors))
    return tensors | {first: torch.zeros(8, 8)}


def no_number(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first = next(iter(tensors))
    return tensors | {first: torch.full_like(tensors[first], float("nan"))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, "unexpected"),
        (one_more, "unexpected"),
        (one_less, "missing"),
        (another_shape, "shape"),
        (no_number, "finite"),
    ],
)
def test_tensors_that_do_not_all_find_their_place_are_refused(
    base: BaseModel, copied: Path, adapters: tuple[Path, Path], change: Any, message: str
) -> None:
    before = margins(factory.scorer(base, QUESTION))
    reseal(copied, change(load_file(copied / WEIGHTS)))
    with pytest.raises(ModelInvalid, match=message):
        factory.scorer(base, QUESTION, copied)
    assert margins(factory.scorer(base, QUESTION)) == before  # nothing of it stays behind
    assert margins(factory.scorer(base, QUESTION, adapters[1])) != before  # and a sound one still loads


def test_a_refused_adapter_beside_a_sound_one_changes_neither(
    base: BaseModel, copied: Path, adapters: tuple[Path, Path]
) -> None:
    alone, two = factory.scorer(base, QUESTION), factory.scorer(base, QUESTION, adapters[1])
    before, second = margins(alone), margins(two)
    reseal(copied, renamed(load_file(copied / WEIGHTS)))
    for active, expected in ((alone, before), (two, second)):
        assert margins(active) == expected
        with pytest.raises(ModelInvalid, match="unexpected"):
            factory.scorer(base, QUESTION, copied)
        assert margins(active) == expected
    assert margins(alone) == before


def test_a_module_trained_whole_is_part_of_the_adapter_and_not_of_the_base(
    base: BaseModel, folder: Path, revision: str, tmp_path: Path
) -> None:
    whole = LORA.model_copy(update={"modules_to_save": ("visual.merger",)})
    trained = load_base(str(folder), precision="fp32", device="cpu")
    model = add_lora(trained.network, whole, name="default")
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if "modules_to_save" in key:
                tensor.mul_(1.5)
    save_lora(tmp_path, model, card=card(revision), lora=whole)
    assert any("visual.merger" in key for key in load_file(tmp_path / WEIGHTS))
    take_out(trained.network)
    alone = factory.scorer(trained, QUESTION)
    before = margins(alone)
    tuned = factory.scorer(trained, QUESTION, tmp_path)
    assert margins(tuned) != pytest.approx(before, abs=1e-3)
    assert margins(alone) == before
    trained.release(str(tuned.identity.adapter_sha256))
    assert margins(alone) == before, "what was trained whole stayed in the base"
    assert margins(factory.scorer(base, QUESTION)) == before


def test_weights_that_are_not_safetensors_are_refused(base: BaseModel, copied: Path) -> None:
    write_adapter(copied, card=read_card(copied), lora=LORA, weights=b"\x80\x04pickle")
    with pytest.raises(ModelInvalid, match="not safetensors"):
        factory.scorer(base, QUESTION, copied)


def test_an_adapter_of_another_base_or_question_is_refused(base: BaseModel, copied: Path) -> None:
    other = Question(name="other", prompt="?", labels=("a", "b"), flags=frozenset({"a"}))
    with pytest.raises(ModelInvalid, match="another question"):
        factory.scorer(base, other, copied)
    edit(copied / CARD, lambda c: c.update(base_revision="sha256:0"))
    with pytest.raises(ModelInvalid, match="load that base or train again"):
        factory.scorer(base, QUESTION, copied)


@pytest.mark.parametrize(("target", "message"), [("no_such_layer", "does not fit"), ("lm_head", "lm_head")])
def test_targets_that_match_nothing_or_the_head_are_refused(base: BaseModel, target: str, message: str) -> None:
    with pytest.raises(ModelInvalid, match=message):
        add_lora(base.network, LORA.model_copy(update={"target_modules": (target,)}), name="x")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_language_regex_adapts_seven_projections_a_layer_and_no_vision(family: str, tmp_path: Path) -> None:
    """In Qwen2.5-VL the vision MLP is named gate/up/down_proj too: a list of suffixes would adapt it."""
    base = load_base(str(tiny.checkpoint(tmp_path, family)), precision="fp32", device="cpu")
    settings = LORA.model_copy(update={"target_modules": FAMILIES[family].language_linear})
    keys = adapter_state(add_lora(base.network, settings, name="x"), "x")
    assert len(keys) == 2 * 7 * 2  # two factors, seven projections, two layers
    assert not any("visual" in key for key in keys)
