"""Phi-4-multimodal: its vision LoRA, its attention both ways, its canvas and its rotary factors."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Phi4MultimodalForCausalLM

from scanfleet.models import factory
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families.phi4_multimodal import lay_out
from scanfleet.models.inputs.sources import folder_revision
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import TINY, reference
from tests.unit.models.checkpoints.phi4_multimodal import SIDE
from tests.unit.models.tiny_models import picture

PHI = TINY["phi4_multimodal"]
QUESTION = Question(
    name="q",
    prompt="Is it red?",
    labels=("yes", "no"),
    flags=frozenset({"yes"}),
    max_pixels=40_000,
    order="instruction-first",
)
# PEFT reads a name that transformers 5.23 renamed.
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
FITTING = picture(2 * SIDE, SIDE, 1)  # fills its canvas: no patch is empty


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return PHI.checkpoint(tmp_path_factory.mktemp("tiny") / "phi")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return PHI.checkpoint(tmp_path / "phi")


def load(folder: Path, precision: Precision = "fp32") -> BaseModel:
    return load_base(str(folder), precision=precision, device="cpu")


def without_lora(folder: Path) -> Path:
    for file in (folder / "vision-lora").iterdir():
        file.unlink()
    (folder / "vision-lora").rmdir()
    return folder


def margin(base: BaseModel) -> float:
    scorer = factory.scorer(base, QUESTION)
    return scorer.score([scorer.prepare(FITTING)])[0].margin


@PEFT_WARNS
@torch.inference_mode()
def test_scores_are_those_of_eager_attention_with_the_lora_that_peft_loads(folder: Path) -> None:
    base = load(folder)
    plain = Phi4MultimodalForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    adapted = PeftModel.from_pretrained(plain, folder / "vision-lora")
    prompt = base.processor.prompt(QUESTION)
    inputs = PHI.reference_inputs(base, prompt.turn.text, FITTING, QUESTION)
    expected, found = (network(**inputs).logits[0, -1] for network in (adapted, base.network))
    assert torch.allclose(found, expected, atol=1e-4)
    with adapted.disable_adapter():
        assert not torch.allclose(adapted(**inputs).logits[0, -1], expected, atol=0.1)


@PEFT_WARNS
@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_beside_quantised_weights_the_lora_is_what_peft_makes_of_it(other: Path, precision: Precision) -> None:
    found = load(other, precision)
    lora = {file.name: file.read_bytes() for file in (other / "vision-lora").iterdir()}
    base = load(without_lora(other), precision)
    alone = margin(base)
    (other / "vision-lora").mkdir()
    for name, body in lora.items():
        (other / "vision-lora" / name).write_bytes(body)
    PeftModel.from_pretrained(base.network, other / "vision-lora")
    assert margin(found) == pytest.approx(margin(base), abs=0.05)
    assert abs(margin(found) - alone) > 0.1


def test_a_lora_that_does_not_fit_is_refused(other: Path) -> None:
    weights = other / "vision-lora" / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = next(name for name in tensors if name.endswith("lora_A.weight"))
    for change, words in (
        ({first: torch.zeros(2, 3)}, "does not fit"),
        ({first.replace("layers.0", "layers.7"): torch.zeros(2, 3)}, "lora_A and lora_B"),
    ):
        save_file(tensors | change, weights)
        with pytest.raises(ModelInvalid, match=words):
            load(other)
    save_file(tensors, weights)
    settings = other / "vision-lora" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"use_dora": True}))
    with pytest.raises(ModelInvalid, match="use_dora is set"):
        load(other)


def test_the_revision_follows_the_vision_lora(other: Path) -> None:
    before = folder_revision(other)
    (other / "vision-lora" / "adapter_config.json").write_text("{}")
    assert folder_revision(other) != before


def test_a_window_shorter_than_a_prompt_is_refused(other: Path) -> None:
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"sliding_window": 1024}))
    with pytest.raises(ModelInvalid, match="1024"):
        load(other)


def test_the_parts_for_sound_are_dropped(folder: Path) -> None:
    assert not any("audio" in name for name, _ in load(folder).network.named_parameters())


def test_a_canvas_has_no_empty_crop_and_keeps_the_shape() -> None:
    rng = random.Random(5)
    for _ in range(500):
        width, height, most = rng.randint(1, 3000), rng.randint(1, 3000), rng.randint(1, 36)
        canvas = lay_out(width, height, side=448, most=most)
        assert canvas.rows * canvas.columns <= most
        assert canvas.width == canvas.columns * 448 or canvas.height == canvas.rows * 448
        if min(canvas.width, canvas.height) >= 100:
            assert canvas.width / canvas.height == pytest.approx(width / height, rel=0.02)
        right, below = canvas.margins
        assert (right < 448 and below < 448) or max(width, height) / min(width, height) > most


def test_an_image_leaves_room_for_the_question_before_the_rotary_factors_change(folder: Path) -> None:
    base = load(folder)
    base.processor.reader.config.rope_parameters["original_max_position_embeddings"] = 200
    roomy = Question(name="q", prompt="?", labels=("a", "b"), flags=frozenset({"a"}), max_pixels=10**7)
    scorer = factory.scorer(base, roomy)
    item = scorer.prepare(picture(900, 900, 1))
    assert 60 < item.visual_tokens <= 150
    assert len(scorer.score([item])) == 1
    long = factory.scorer(base, Question(name="q", prompt="? " * 90, labels=("a", "b"), flags=frozenset({"a"})))
    with pytest.raises(ModelInvalid, match="200"):
        long.score([long.prepare(picture(900, 900, 1))])


def test_the_reference_is_met_on_canvases_of_every_kind(folder: Path) -> None:
    base = load(folder)
    scorer = factory.scorer(base, QUESTION)
    # One that fills its canvas, squares that fit several canvases equally well, strips, and one that has to shrink.
    for size in ((2 * SIDE, SIDE), (SIDE, SIDE), (100, 100), (250, 250), (500, 120), (70, 400), (700, 400)):
        image = picture(*size, 1)
        item = scorer.prepare(image)
        (found,) = scorer.score([item])
        expected = reference(PHI, base, QUESTION, image)
        assert found.margin == pytest.approx(expected.margin, abs=1e-4)
        assert found.visual_tokens == expected.visual_tokens
    assert item.grid == (2, 4)
