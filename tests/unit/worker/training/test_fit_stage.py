"""Stage fit: the next recipe where a loss stays near chance, and what is said when none learns."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scanfleet.checks.check import load_check
from scanfleet.errors import TrainingFailed
from scanfleet.models.adapters.likeness import FILE, METRIC
from scanfleet.models.training.data.types import Progress, Trained
from scanfleet.models.types import Question, Reading
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.training import fit as stage
from scanfleet.worker.training.fit import fit
from scanfleet.worker.training.publish import report_of_failure

QUESTION = question_of(load_check("overlay"))
CHANCE = math.log(3)


def finished(loss: float) -> Trained:
    last = Progress(step=1, steps=1, epoch=1, epochs=1, loss=loss, validation=loss, seconds=1.0, seconds_left=0.0)
    written = SimpleNamespace(weights_sha256=f"{loss:.3f}", recipe={})
    return Trained(write=lambda *_: written, history=[last], figures={"validation": loss})  # type: ignore[arg-type, return-value]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    checkpoint = SimpleNamespace(name="pocket", revision="r")
    monkeypatch.setattr(stage, "examples_of", lambda *_: [])
    monkeypatch.setattr(stage, "with_validation", lambda _: ([], []))
    return SimpleNamespace(
        base=SimpleNamespace(precision="fp32", checkpoint=checkpoint, order="instruction-first"),
        question=QUESTION,
        check=SimpleNamespace(name="overlay"),
        training=SimpleNamespace(id=1, recipe="auto", overrides={}, seed=0),
        work=SimpleNamespace(path=tmp_path),
        results={},
    )


def losses(monkeypatch: pytest.MonkeyPatch, **by_recipe: float) -> list[str]:
    """Have each recipe end with this share of the loss of guessing; returns the recipes as they are tried."""
    tried: list[str] = []

    def train(_: Any, question: Question, recipe: Any, *___: Any) -> Trained:
        assert question.order == ("image-first" if recipe.activated else "instruction-first")
        tried.append(recipe.name)
        return finished(CHANCE * by_recipe[recipe.name.replace("-", "_")])

    monkeypatch.setattr(stage, "_train", train)
    return tried


def test_a_recipe_that_learns_is_the_last_one(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = losses(monkeypatch, pocket_lora=0.5, pocket_full=0.1)
    assert fit(context)["tried"] == {"pocket-lora": pytest.approx(0.5 * CHANCE)}
    assert tried == ["pocket-lora"]


def test_a_loss_near_chance_goes_on_to_the_next_recipe(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = losses(monkeypatch, pocket_lora=0.975, pocket_full=0.4)
    assert list(fit(context)["tried"]) == tried == ["pocket-lora", "pocket-full"]


def test_the_better_of_two_is_kept(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, pocket_lora=0.92, pocket_full=0.97)
    kept = fit(context)
    assert list(kept["tried"]) == ["pocket-lora", "pocket-full"]
    assert kept["weights_sha256"] == f"{0.92 * CHANCE:.3f}"


def test_labels_that_nothing_learns_are_named_as_such(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, pocket_lora=1.0, pocket_full=0.99)
    with pytest.raises(TrainingFailed) as caught:
        fit(context)
    assert "1.10 by recipe pocket-lora, 1.09 by recipe pocket-full, and 1.10 by guessing" in str(caught.value)
    figures = report_of_failure(context.results)["fit"]
    assert figures["tried"] == {"pocket-lora": pytest.approx(CHANCE), "pocket-full": pytest.approx(0.99 * CHANCE)}
    assert figures["chance"] == pytest.approx(CHANCE)


def test_a_recipe_that_was_asked_for_is_the_only_one(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context.training.recipe = "pocket-lora"
    assert losses(monkeypatch, pocket_lora=1.0) == []
    assert list(fit(context)["tried"]) == ["pocket-lora"]


def test_what_acts_behind_the_image_is_asked_after_it(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context.training.recipe = "alora"
    losses(monkeypatch, alora=0.5)
    assert list(fit(context)["tried"]) == ["alora"]


def test_a_training_keeps_what_its_calibration_images_look_like(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    examples: list[Any] = [SimpleNamespace(key=str(number), cluster=str(number // 2)) for number in range(80)]
    readings = {
        each.key: Reading(margin=0.0, logits=(0.0,), mass=1.0, visual_tokens=1, features=rng.normal(size=8))
        for each in examples
    }
    told = stage._likeness(tmp_path, examples, readings)[METRIC]
    assert (told["n"], (tmp_path / FILE).is_file()) == (40, True)  # of two look-alikes one
    assert stage._likeness(tmp_path, examples[:20], readings) == {}
    assert stage._likeness(tmp_path, examples, {}) == {}  # a family whose tokens cannot be seen
