"""Recipe `alora`: what is trained is what is served, and what PEFT's own forward would learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, read_adapter
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.lora import take_out
from scanfleet.models.recipes import Recipe, load_recipe
from scanfleet.models.training.data.dataset import collect_data
from scanfleet.models.training.data.features import CachedSource, PixelSource, Source
from scanfleet.models.training.data.request import TrainingRequest
from scanfleet.models.training.data.types import Example
from scanfleet.models.training.fit import fit
from scanfleet.models.training.tasks.network import activated
from scanfleet.models.training.tasks.token import TokenTask
from tests.unit.models import tiny_models as tiny
from tests.unit.models.checkpoints import TINY
from tests.unit.models.training import training_examples
from tests.unit.models.training.training_examples import ignore_progress, pictures

QUESTION = replace(training_examples.QUESTION, order="image-first")
FAST = {"epochs": 4, "min_steps": 0, "max_epochs": 0, "batch": 6, "accumulation": 1, "lr": 5e-3, "patience": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return pictures(tmp_path_factory.mktemp("images"), 18)


def recipe(name: str = "alora", **changes: Any) -> Recipe:
    return load_recipe(name, overrides=FAST | {"gradient_checkpointing": False, "small_share": 0.0} | changes)


def card(base: BaseModel) -> AdapterCard:
    checkpoint = base.checkpoint
    return AdapterCard(name="a", question=QUESTION, base_model=checkpoint.name, base_revision=checkpoint.revision)


def served_loss(base: BaseModel, folder: Path, held: list[Example]) -> float:
    scorer = factory.scorer(base, QUESTION, folder)
    with torch.inference_mode():
        hidden = scorer.last_hidden([scorer.prepare(tiny.Image.open(example.path)) for example in held])
    base.release(str(scorer.identity.adapter_sha256))
    targets = torch.tensor([scorer.prompt.codes[example.label].answer_id for example in held])
    return torch.nn.functional.cross_entropy(hidden @ base.network.get_output_embeddings().weight.T, targets).item()


def test_the_scorer_answers_what_was_learnt(base: BaseModel, images: list[Example], tmp_path: Path) -> None:
    train, held = images[:12], images[12:]
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    trained = fit(base, QUESTION, train, held, recipe(), seed=1, work=tmp_path / "w", on_progress=ignore_progress)
    assert all(torch.equal(value, before[name]) for name, value in base.network.state_dict().items())
    trained.write(tmp_path / "a", card(base))
    lora = read_adapter(tmp_path / "a").lora
    assert lora is not None
    assert lora.alora_invocation_tokens == base.processor.prompt(QUESTION).turn.after
    assert trained.figures["features"] == "kept"
    found = float(trained.figures["validation"])
    assert found == pytest.approx(served_loss(base, tmp_path / "a", held), rel=1e-4)
    assert found < 0.6 * float(trained.figures["validation_before"])
    further = fit(
        base, QUESTION, train, held, recipe("lora"), seed=1, work=tmp_path / "f", on_progress=ignore_progress,
        base_adapter=tmp_path / "a",
    )  # fmt: skip
    assert further.figures["validation_before"] == pytest.approx(found, rel=1e-4)
    further.write(tmp_path / "b", card(base))
    assert further.figures["validation"] == pytest.approx(served_loss(base, tmp_path / "b", held), rel=1e-4)


def gradients(base: BaseModel, images: list[Example], made: Recipe, source: Source) -> dict[str, torch.Tensor]:
    request = TrainingRequest(question=QUESTION, train=images, validation=[], recipe=made, seed=1, base_adapter=None)
    invocation = base.processor.prompt(QUESTION).turn.after
    with activated(base, made, seed=1, invocation=invocation) as network:
        moved(network.state)
        task = TokenTask(network, QUESTION, collect_data(base, request, source, on_read=lambda: None), source, made)
        draws = [(i, 0) for i in range(6)]
        task.learn([draws[i : i + made.batch] for i in range(0, 6, made.batch)])
        return {
            name.replace(".fit.", ".default."): parameter.grad.clone()
            for name, parameter in base.network.named_parameters()
            if parameter.grad is not None
        }


def moved(state: dict[str, torch.Tensor]) -> None:
    for name, value in state.items():
        generator = torch.Generator().manual_seed(len(name))
        torch.nn.init.normal_(value, std=0.1, generator=generator)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_gradient_is_that_of_pefts_own_forward(base: BaseModel, images: list[Example], tmp_path: Path) -> None:
    made = recipe(dropout=0.0)
    prompt = base.processor.prompt(QUESTION)
    found = gradients(base, images[:6], made, PixelSource(base))
    settings = LoraConfig(
        r=made.r,
        lora_alpha=int(made.alpha),
        target_modules=base.family.language_linear,
        alora_invocation_tokens=list(prompt.turn.after),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base.network, settings).eval()
    adapted = {name: value.data for name, value in model.named_parameters() if "lora_" in name}
    moved({name.replace(".default", ""): value for name, value in adapted.items()})
    total = torch.zeros(())
    for example in images[:6]:
        inputs = TINY["qwen3_vl"].reference_inputs(base, prompt.turn.text, tiny.Image.open(example.path), QUESTION)
        target = torch.tensor(prompt.codes[example.label].answer_id)
        total = total + torch.nn.functional.cross_entropy(model(**inputs).logits[0, -1], target) / 6
    total.backward()
    expected = {
        name: parameter.grad for name, parameter in base.network.named_parameters() if parameter.grad is not None
    }
    take_out(base.network)
    base.network.requires_grad_(False)
    assert found.keys() == expected.keys()
    assert len(found) == 28
    for name, grad in expected.items():
        assert torch.allclose(found[name], grad, atol=1e-4 * float(grad.abs().max()) + 1e-7), name
    for other, source in (
        (recipe(dropout=0.0, batch=2, accumulation=3), PixelSource(base)),
        (recipe(dropout=0.0, gradient_checkpointing=True), CachedSource(base, tmp_path)),
    ):
        parts = gradients(base, images[:6], other, source)
        for name, grad in found.items():
            assert torch.allclose(parts[name], grad, atol=1e-5 * float(grad.abs().max()) + 1e-7), name


def test_what_cannot_act_behind_the_image_is_refused(base: BaseModel, images: list[Example], tmp_path: Path) -> None:
    more: dict[str, Any] = {"seed": 1, "work": tmp_path / "w", "on_progress": ignore_progress}
    asked = replace(QUESTION, order="instruction-first")
    with pytest.raises(ModelInvalid, match=r"recipe alora .* question 'overlay' is asked instruction first") as error:
        fit(base, asked, images[:6], [], recipe(), **more)
    assert "\n" not in str(error.value)
    blip = load_base(str(TINY["instructblip"].checkpoint(tmp_path / "blip")), precision="fp32", device="cpu")
    with pytest.raises(ModelInvalid, match="instructblip models read the question with the image"):
        fit(blip, QUESTION, images[:6], [], recipe(), **more)
