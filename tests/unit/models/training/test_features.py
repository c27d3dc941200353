"""Kept features: the same loss as without them, the tower run once, files whole or not there."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.recipes import load_recipe
from scanfleet.models.training.checkpoint import load_state, save_state
from scanfleet.models.training.data.dataset import collect_data
from scanfleet.models.training.data.features import CachedSource, PixelSource, Source
from scanfleet.models.training.data.request import TrainingRequest
from scanfleet.models.training.data.samples import Samples
from scanfleet.models.training.fit import fit
from scanfleet.models.training.tasks.forward import Instruction, answer_loss, last_hidden
from tests.unit.models import tiny_models as tiny
from tests.unit.models.training.training_examples import QUESTION, ignore_progress, pictures

DRAWS = [(i, 0) for i in range(5)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")), precision="fp32", device="cpu")


def losses(base: BaseModel, samples: Samples, source: Source) -> torch.Tensor:
    prompt = base.processor.prompt(QUESTION)
    with torch.no_grad():
        prefix = Instruction(base, prompt.turn.before).prefix
        hidden = last_hidden(base, source.rows(samples, DRAWS, prompt.turn), prefix)
    targets = torch.tensor([prompt.codes[example.label].answer_id for example in samples.examples])
    return answer_loss(hidden, base.network.get_output_embeddings().weight, targets)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "llava", "internvl", "idefics2", "smolvlm"])
def test_the_loss_over_kept_features_is_the_loss_over_pixels(tmp_path: Path, family: str) -> None:
    folder = importlib.import_module(f"tests.unit.models.checkpoints.{family}").checkpoint(tmp_path / "model")
    base = load_base(str(folder), precision="fp32", device="cpu")
    samples = Samples(pictures(tmp_path, 5), base.processor, QUESTION, factor=1.0, below=0.0)
    kept, computed = CachedSource(base, tmp_path / "features"), PixelSource(base)
    for source in (kept, computed):
        assert len(source.fill(samples, DRAWS, lambda: None)) == 5
    over_pixels = losses(base, samples, computed)
    assert losses(base, samples, kept).tolist() == pytest.approx(over_pixels.tolist(), abs=1e-5)
    again = CachedSource(base, tmp_path / "features")  # from the files alone
    again.fill(samples, DRAWS, lambda: None)
    assert again.cache.n_computed == 0
    assert losses(base, samples, again).tolist() == pytest.approx(over_pixels.tolist(), abs=1e-5)
    assert over_pixels.std() > 1e-3


def test_the_tower_runs_once_however_many_epochs_there_are(base: BaseModel, tmp_path: Path) -> None:
    ran: list[int] = []
    handle = base.network.base_model.visual.register_forward_pre_hook(lambda *_: ran.append(1))
    recipe = load_recipe("lora", overrides={"epochs": 2, "min_steps": 0, "batch": 16, "accumulation": 1})
    train, held = pictures(tmp_path, 17), pictures(tmp_path, 3, first=17)
    try:
        trained = fit(base, QUESTION, train, held, recipe, seed=1, work=tmp_path / "work", on_progress=ignore_progress)
    finally:
        handle.remove()
    assert len(ran) == 3  # two chunks of the training images, one of the others
    assert trained.figures["features"] == "kept"
    assert trained.figures["features_computed"] == 20
    assert int(trained.figures["feature_bytes"]) > 0


def test_features_depend_on_example_variant_and_budget(base: BaseModel, tmp_path: Path) -> None:
    examples = pictures(tmp_path, 2)
    names = {
        Samples(examples, base.processor, question, factor=factor, below=0.1).name(draw)
        for question in (QUESTION, replace(QUESTION, max_pixels=5001), replace(QUESTION, min_pixels=5001))
        for factor in (1.0, 2.0)
        for draw in ((0, 0), (0, 1), (0, 2), (1, 0))
    }
    assert len(names) == 3 * 2 * 4


@pytest.mark.parametrize("source", [CachedSource, PixelSource])
def test_an_image_that_the_model_cannot_take_is_left_out_and_counted(
    base: BaseModel, tmp_path: Path, source: type[CachedSource] | type[PixelSource]
) -> None:
    train = pictures(tmp_path, 4)
    Image.new("RGB", (1000, 2)).save(train[1].path)
    request = TrainingRequest(
        question=QUESTION, train=train, validation=[], recipe=load_recipe("lora"), seed=1, base_adapter=None
    )
    made = CachedSource(base, tmp_path / "f") if source is CachedSource else PixelSource(base)
    data = collect_data(base, request, made, on_read=lambda: None)
    assert [example.key for example in data.train.examples] == [train[i].key for i in (0, 2, 3)]
    assert data.plan.labels == [0, 2, 0]
    assert (data.figures["train_images"], data.figures["left_out"]) == (3, 1)


def test_a_file_that_was_being_written_is_not_taken_for_one(base: BaseModel, tmp_path: Path) -> None:
    samples = Samples(pictures(tmp_path, 5), base.processor, QUESTION, factor=1.0, below=0.0)
    kept = CachedSource(base, tmp_path / "f")

    def torn(*_: object) -> list[dict[str, torch.Tensor]]:
        raise OSError("the disk is full")

    cache, compute = kept.cache, kept.cache._compute
    cache._compute = torn
    with pytest.raises(OSError, match="full"):
        kept.fill(samples, DRAWS, lambda: None)
    cache._compute = compute
    assert len(kept.fill(samples, DRAWS, lambda: None)) == 5


def test_a_damaged_checkpoint_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert load_state(path) is None
    save_state(path, {"step": 3, "tensors": {"a": torch.ones(2)}, "list": [1.5, None, "word"]})
    found = load_state(path)
    assert found is not None
    assert (found["step"], found["list"]) == (3, [1.5, None, "word"])
    body = path.read_bytes()
    for damaged in (body[: len(body) // 2], b"", b"\x80\x04garbage"):
        path.write_bytes(damaged)
        assert load_state(path) is None
    assert [each.name for each in tmp_path.iterdir()] == ["state"]
