"""Recipe head: a linear layer over hidden states that are computed once, on the base or on a tuned one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, read_adapter
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.recipes import Recipe, load_recipe
from scanfleet.models.scoring.head import HeadScorer
from scanfleet.models.training.data.types import Example, Progress, Trained
from scanfleet.models.training.fit import fit
from tests.unit.models import tiny_models as tiny
from tests.unit.models.training.training_examples import QUESTION, ignore_progress, pictures


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return pictures(tmp_path_factory.mktemp("images"), 18)


def card(base: BaseModel) -> AdapterCard:
    checkpoint = base.checkpoint
    return AdapterCard(name="a", question=QUESTION, base_model=checkpoint.name, base_revision=checkpoint.revision)


def head_recipe(**changes: float) -> Recipe:
    return load_recipe("head", overrides={"min_steps": 60, "lr": 1e-2} | changes)


def over_base(base: BaseModel, images: list[Example], work: Path, over: Path | None = None) -> Trained:
    train, held = images[:12], images[12:]
    return fit(
        base, QUESTION, train, held, head_recipe(), seed=1, work=work, on_progress=ignore_progress, base_adapter=over
    )


def test_a_head_over_the_frozen_base_learns_and_serves(base: BaseModel, images: list[Example], tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    trained = over_base(base, images, tmp_path / "w")
    written = trained.write(tmp_path / "a", card(base))
    assert written.parts == ("head",)
    assert trained.figures["features"] == "hidden states kept"
    assert trained.history[-1].loss is not None
    assert trained.history[-1].loss < 0.7 * (trained.history[0].loss or 0)
    scorer = factory.scorer(base, QUESTION, tmp_path / "a")
    assert isinstance(scorer, HeadScorer)
    readings = scorer.score([scorer.prepare(tiny.Image.open(example.path)) for example in images[12:]])
    logits = torch.tensor([reading.logits for reading in readings])
    served = torch.nn.functional.cross_entropy(logits, torch.tensor([example.label for example in images[12:]]))
    assert trained.figures["validation"] == pytest.approx(served.item(), rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in base.network.state_dict().items())


def test_a_head_over_a_tuned_base_reads_its_hidden_states_and_is_written_with_it(
    base: BaseModel, images: list[Example], tmp_path: Path
) -> None:
    lora = load_recipe("lora", overrides={"epochs": 2, "lr": 5e-3, "min_steps": 0, "batch": 6, "accumulation": 1})
    tuned = fit(base, QUESTION, images[:12], [], lora, seed=1, work=tmp_path / "lora", on_progress=ignore_progress)
    tuned.write(tmp_path / "tuned", card(base))
    both = over_base(base, images, tmp_path / "w", over=tmp_path / "tuned")
    written = both.write(tmp_path / "both", card(base))
    assert written.parts == ("lora", "head")
    assert read_adapter(tmp_path / "both").weights == read_adapter(tmp_path / "tuned").weights
    alone = over_base(base, images, tmp_path / "w")  # the same work folder: nothing of the other base's is taken
    assert both.figures["validation_before"] != pytest.approx(alone.figures["validation_before"], rel=1e-3)
    scorer = factory.scorer(base, QUESTION, tmp_path / "both")
    readings = scorer.score([scorer.prepare(tiny.Image.open(example.path)) for example in images[12:]])
    logits = torch.tensor([reading.logits for reading in readings])
    served = torch.nn.functional.cross_entropy(logits, torch.tensor([example.label for example in images[12:]]))
    assert both.figures["validation"] == pytest.approx(served.item(), rel=1e-3)
    base.release(written.weights_sha256)


def test_hidden_states_are_computed_once_and_a_stopped_head_resumes(
    base: BaseModel, images: list[Example], tmp_path: Path
) -> None:
    whole = over_base(base, images, tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if progress.step == 31:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(base, QUESTION, images[:12], images[12:], head_recipe(), seed=1, work=tmp_path / "w", on_progress=stop)
    resumed = over_base(base, images, tmp_path / "w")
    assert resumed.figures["features_computed"] == 0
    heads = []
    for name, trained in (("a", whole), ("b", resumed)):
        trained.write(tmp_path / name, card(base))
        heads.append(read_adapter(tmp_path / name).head)
    assert heads[0] == heads[1]


def test_an_adapter_of_another_question_is_refused(base: BaseModel, images: list[Example], tmp_path: Path) -> None:
    over_base(base, images, tmp_path / "w").write(
        tmp_path / "a", card(base).model_copy(update={"base_revision": "other"})
    )
    with pytest.raises(ModelInvalid, match="was trained on"):
        over_base(base, images, tmp_path / "w", over=tmp_path / "a")
