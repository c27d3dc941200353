"""A shipped adapter in use and one that any recipe trains, on one base: neither depends on the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_tensors

from scanfleet.models import factory, pocket
from scanfleet.models.adapters.card import AdapterCard, LoraSettings, write_adapter
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.recipes import load_recipe, recipe_names
from scanfleet.models.scoring.head import Head, write_head
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.training.tasks.network import activated
from scanfleet.models.types import Question
from tests.unit.models import tiny_models as tiny


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a recipe leaves of a training; a head has no LoRA."""

    lora: LoraSettings | None = None
    weights: bytes | None = None

    def write(self, folder: Path, base: BaseModel, question: Question) -> Path:
        head = None
        if self.lora is None:
            rows = torch.randn(len(question.labels), base.n_features, generator=torch.Generator().manual_seed(1))
            head = write_head(Head(weight=rows, bias=torch.zeros(len(question.labels))))
        card = AdapterCard(
            name="challenger", question=question, base_model="pocket", base_revision=base.checkpoint.revision
        )
        write_adapter(folder, card=card, lora=self.lora, weights=self.weights, head=head)
        return folder


def load() -> BaseModel:
    return load_base("pocket", precision="fp32", device="cpu")


def margins(scorer: PrefillScorer) -> list[float]:
    images = [scorer.prepare(tiny.picture(90, 60, number)) for number in range(2)]
    return [reading.margin for reading in scorer.score(images)]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    """The base that all adapters of these tests come to and leave."""
    return load()


@pytest.fixture(scope="module")
def untouched() -> dict[str, list[float]]:
    """Each shipped adapter's margins, and the base's ("alone"), each in a base that never saw another adapter."""
    found = {
        check: margins(factory.scorer(load(), QUESTIONS[check], pocket.adapter_folder(check))) for check in QUESTIONS
    }
    return found | {"alone": margins(factory.scorer(load(), QUESTIONS["overlay"]))}


@pytest.fixture(scope="module")
def trained() -> Callable[[str], Trained]:
    """A training's modules by recipe, moved as a training would move them. All are made on one base."""
    base = load()

    def make(name: str) -> Trained:
        recipe = load_recipe(name)
        if recipe.trains == "head":
            return Trained()
        with activated(base, recipe, seed=1) as active, torch.no_grad():
            generator = torch.Generator().manual_seed(2)
            for tensor in active.state.values():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)
            weights = save_tensors({key: value.contiguous().clone() for key, value in active.state.items()})
        return Trained(lora=active.lora, weights=weights)

    return make


# One recipe of each kind of weights; the others need many seconds, and differ by their settings.
QUICK = ("pocket-full", "pocket-head")
RECIPES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in recipe_names()]


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_load_in_either_order_and_the_champion_scores_as_if_alone(
    recipe: str,
    base: BaseModel,
    untouched: dict[str, list[float]],
    trained: Callable[[str], Trained],
    tmp_path: Path,
) -> None:
    made = trained(recipe)
    for check, question in QUESTIONS.items():
        shipped = pocket.adapter_folder(check)
        challenger_folder = made.write(tmp_path / check, base, question)
        seen = []
        for order in ((shipped, challenger_folder), (challenger_folder, shipped)):
            scorers = {folder: factory.scorer(base, question, folder) for folder in order}
            champion, challenger = scorers[shipped], scorers[challenger_folder]
            for _ in range(2):  # and back again, as the measurement of latency does
                seen.append(margins(challenger))
                assert margins(champion) == untouched[check]
            assert check != "overlay" or margins(factory.scorer(base, question)) == untouched["alone"]
            for scorer in scorers.values():
                base.release(str(scorer.identity.adapter_sha256))
        assert seen == [seen[0]] * 4
        assert seen[0] != untouched[check]
