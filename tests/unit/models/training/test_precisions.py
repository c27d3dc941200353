"""Fits over 4 bit, 8 bit and bf16 bases, with mixed images and with other families."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.network.base import Precision, load_base
from scanfleet.models.network.cpu.packed import differentiable_packed
from scanfleet.models.network.quantisation import pack_4bit_layers
from scanfleet.models.recipes import load_recipe
from scanfleet.models.training.data.features import PixelSource
from scanfleet.models.training.data.mixing import Mix
from scanfleet.models.training.data.samples import Samples
from scanfleet.models.training.fit import fit
from scanfleet.models.training.optimiser import Optimiser
from scanfleet.models.training.tasks.forward import answer_loss
from tests.unit.models import tiny_models as tiny
from tests.unit.models.training.training_examples import QUESTION, ignore_progress, pictures

SHORT = {"epochs": 2, "min_steps": 0, "max_epochs": 0, "lr": 5e-3, "batch": 6, "accumulation": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")


@pytest.mark.parametrize(("precision", "name"), [("nf4", "qlora"), ("int8", "lora"), ("bf16", "projector")])
def test_a_base_in_fewer_bits_learns_and_serves(folder: Path, tmp_path: Path, precision: Precision, name: str) -> None:
    base = load_base(str(folder), precision=precision, device="cpu")
    plain = factory.scorer(base, QUESTION)
    pictured = [plain.prepare(tiny.picture(90, 60, 3))]
    before = plain.score(pictured)[0].margin
    images = pictures(tmp_path, 6)
    recipe = load_recipe(name, overrides=SHORT)
    trained = fit(base, QUESTION, images, [], recipe, seed=1, work=tmp_path / "w", on_progress=ignore_progress)
    assert trained.history[1].loss is not None
    assert trained.history[1].loss < 0.98 * (trained.history[0].loss or 0)
    assert trained.figures["matched_language"] == 14
    checkpoint = base.checkpoint
    card = AdapterCard(name="a", question=QUESTION, base_model=checkpoint.name, base_revision=checkpoint.revision)
    trained.write(tmp_path / "a", card)
    assert plain.score(pictured)[0].margin == before
    assert factory.scorer(base, QUESTION, tmp_path / "a").score(pictured)[0].margin != before


def test_a_4_bit_layer_carries_the_gradient_of_what_it_computes() -> None:
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    network = torch.nn.Sequential(Linear4bit(64, 32, bias=True, quant_type="nf4", compute_dtype=torch.bfloat16))
    network.to("cpu").requires_grad_(False)
    pack_4bit_layers(network.eval())
    x, way, slope = torch.randn(3, 64, requires_grad=True), torch.randn(3, 64), torch.randn(3, 32)
    with differentiable_packed(network):
        (network(x) * slope).sum().backward()
    with torch.no_grad():  # a linear layer changes along `way` by what it makes of `way`
        change = ((network(way) - network(torch.zeros_like(way))) * slope).sum()
    assert x.grad is not None
    assert (x.grad * way).sum().item() == pytest.approx(change.item(), abs=0.05)
    assert abs(change.item()) > 1
    assert "forward" not in vars(network[0])


def test_small_steps_are_not_lost_in_16_bit() -> None:
    """A step of 1e-4 is less than half the distance between bf16 numbers near 1."""
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    recipe = load_recipe("lora", overrides={"lr": 1e-4, "weight_decay": 0.0})
    optimiser = Optimiser([parameter], recipe)
    for number in range(100):
        parameter.grad = torch.ones_like(parameter)
        optimiser.step(number, 100)
    assert parameter.tolist() == pytest.approx([0.995] * 4, abs=2e-3)


def test_the_loss_in_slices_is_the_loss_over_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 8, requires_grad=True)
    weight, targets = torch.randn(40_000, 8).bfloat16(), torch.tensor([5, 39_999, 20_000])
    sliced = answer_loss(hidden, weight, targets)
    (slope,) = torch.autograd.grad(sliced.sum(), hidden)
    whole = torch.nn.functional.cross_entropy(hidden @ weight.float().T, targets, reduction="none")
    (expected,) = torch.autograd.grad(whole.sum(), hidden)
    assert torch.allclose(sliced, whole, atol=1e-4)
    assert torch.allclose(slope, expected, atol=1e-4)


def test_mixed_images_are_read_from_pixels(folder: Path, tmp_path: Path) -> None:
    base = load_base(str(folder), precision="fp32", device="cpu")
    images = pictures(tmp_path, 6)
    recipe = load_recipe("lora", overrides=SHORT | {"mixing": "cutmix"})
    trained = fit(base, QUESTION, images, [], recipe, seed=1, work=tmp_path / "w", on_progress=ignore_progress)
    assert str(trained.figures["features"]).startswith("computed in every forward: images are mixed")
    samples, source = Samples(images, base.processor, QUESTION, factor=1.0, below=0.0), PixelSource(base)
    turn = base.processor.prompt(QUESTION).turn

    def pixels(mix: Mix | None) -> torch.Tensor:
        found: torch.Tensor = source.rows(samples, [(0, 0), (3, 0)], turn, mix).inputs["pixel_values"]
        return found

    half = pixels(Mix(kind="mixup", share=0.5, corner=(0, 0)))
    assert torch.allclose(pixels(Mix(kind="mixup", share=1.0, corner=(0, 0))), pixels(None))
    assert torch.allclose(half, pixels(None).view(2, -1).mean(0).repeat(2).view_as(half), atol=0.05)


@pytest.mark.parametrize("family", ["instructblip", "phi4_multimodal", "llava_next"])
def test_a_family_whose_features_cannot_be_kept_is_trained_over_pixels(tmp_path: Path, family: str) -> None:
    made = importlib.import_module(f"tests.unit.models.checkpoints.{family}").checkpoint(tmp_path / "model")
    base = load_base(str(made), precision="fp32", device="cpu")
    images = pictures(tmp_path, 6)
    recipe = load_recipe("lora", overrides=SHORT)
    trained = fit(base, QUESTION, images, [], recipe, seed=1, work=tmp_path / "w", on_progress=ignore_progress)
    assert str(trained.figures["features"]).startswith("computed in every forward: its ")
    assert trained.history[1].loss is not None
    assert trained.history[1].loss < (trained.history[0].loss or 0)
