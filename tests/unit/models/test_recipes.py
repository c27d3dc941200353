"""The recipes that come along, and what may be changed in them."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.recipes import load_recipe, possible_recipes, recipe_names, recipes_for


def base(precision: str = "fp32", name: str = "some/model") -> Any:
    return SimpleNamespace(precision=precision, checkpoint=SimpleNamespace(name=name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora", {"trains": "language", "r": 16, "alpha": 32, "dropout": 0.05, "lr": 1e-4, "warm_up": 0.03}),
        ("qlora", {"trains": "language", "precision": "nf4", "r": 16, "alpha": 32, "lr": 1e-4}),
        ("projector", {"trains": "language+projector", "lr": 2e-4, "epochs": 2, "batch": 1, "accumulation": 2}),
        ("xray-lora", {"dropout": 0.1, "lr": 2e-4, "epochs": 3, "batch": 4, "accumulation": 4, "small_share": 0}),
        ("vision-top3", {"trains": "vision-blocks", "vision_blocks": 3, "lr": 1e-5, "pixel_factor": 1.5}),
        ("head", {"trains": "head", "dropout": 0.1}),
        ("pocket-lora", {"trains": "language", "lr": 2e-3}),
        ("pocket-head", {"trains": "head", "lr": 1e-2}),
        ("full-lora", {"trains": "everything", "r": 16, "vision_cache": False}),
        ("alora", {"trains": "language", "activated": True, "r": 16, "alpha": 32, "lr": 1e-4}),
        ("pocket-alora", {"trains": "language", "activated": True, "lr": 2e-3}),
        ("pocket-full", {"trains": "everything", "lr": 2e-3}),
    ],
)
def test_a_recipe_says_what_its_source_says(name: str, expected: dict[str, Any]) -> None:
    recipe = load_recipe(name)
    assert {key: getattr(recipe, key) for key in expected} == expected
    assert recipe.mixing == "none"
    assert name in recipe_names()


def test_every_recipe_can_be_loaded_and_steps_over_sixteen_images_by_default() -> None:
    assert {load_recipe(name).name for name in recipe_names()} == set(recipe_names())
    assert load_recipe("lora").effective_batch == 16
    assert load_recipe("lora").gradient_checkpointing


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rank": 8}, "recipe lora: no field rank"),
        ({"lrr": 1}, "recipe lora: no field lrr (did you mean lr?)"),
        ({"lr": "fast"}, "recipe lora: lr: "),
        ({"lr": float("nan")}, "recipe lora: lr: "),
        ({"epochs": 0}, "recipe lora: epochs: "),
        ({"dropout": 1.0}, "recipe lora: dropout: "),
        ({"small_share": 0.3}, "recipe lora: small_share: "),
        ({"mixing": "mixup", "batch": 1}, "recipe lora: mixing"),
        ({"vision_blocks": 2}, "recipe lora: vision_blocks belongs"),
        ({"max_epochs": 1}, "recipe lora: max_epochs (1)"),
        ({"epochs": 1.5}, "recipe lora: epochs: "),
        ({"r": 0}, "recipe lora: r: "),
        ({"batch": 1025}, "recipe lora: batch: "),
        ({"accumulation": 4097}, "recipe lora: accumulation: "),
        ({"epochs": 1001, "max_epochs": 0}, "recipe lora: epochs: "),
        ({"max_epochs": 1001}, "recipe lora: max_epochs: "),
    ],
)
def test_a_wrong_field_is_named_in_one_line(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        load_recipe("lora", overrides=overrides)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    with pytest.raises(ModelInvalid, match=r"'loraa'.* head, lora, "):
        load_recipe("loraa")


def test_auto_takes_the_recipe_made_for_the_base() -> None:
    assert recipes_for(base())[0].name == "lora"
    assert recipes_for(base("bf16"))[0].name == "lora"
    assert recipes_for(base("nf4"))[0].name == "qlora"
    assert recipes_for(base(name="pocket"))[0].name == "pocket-lora"
    assert recipes_for(base("nf4", "pocket"))[0].name == "qlora"
    (alone,) = recipes_for(base(), "lora", overrides={"lr": 0.5})
    assert alone.lr == 0.5


def test_qlora_over_a_base_that_is_not_in_4_bit_is_refused() -> None:
    with pytest.raises(ModelInvalid, match=r"nf4.* bf16"):
        recipes_for(base("bf16"), "qlora")


def test_few_images_are_gone_through_more_often() -> None:
    recipe = load_recipe("lora", overrides={"epochs": 3, "min_steps": 100, "max_epochs": 12})
    assert [recipe.n_epochs(steps) for steps in (100, 25, 10, 1)] == [3, 4, 10, 12]
    assert load_recipe("lora", overrides={"epochs": 3, "min_steps": 100, "max_epochs": 0}).n_epochs(1) == 100


def test_auto_over_a_base_that_is_not_loaded_refuses_what_none_of_its_recipes_takes() -> None:
    names = {base: [each.name for each in possible_recipes("auto", base)] for base in ("pocket", "some/model")}
    assert names == {"pocket": ["pocket-lora"], "some/model": ["lora", "qlora"]}
    with pytest.raises(ModelInvalid, match="recipe pocket-lora: max_epochs"):
        possible_recipes("auto", "pocket", overrides={"max_epochs": 5})
    assert possible_recipes("auto", "some/model", overrides={"max_epochs": 5})
    with pytest.raises(ModelInvalid, match="recipe lora: no field nonsense"):
        possible_recipes("auto", "some/model", overrides={"nonsense": 3})


def test_a_process_says_whether_a_recipe_takes_some_fields_and_loads_no_torch() -> None:
    asked = {"recipe": "head", "base_model": "pocket", "overrides": {"lr": 0.001}}
    command = [sys.executable, "-P", "-X", "importtime", "-m", "scanfleet.models.recipes"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"trains": ["head"]}
    assert "pydantic" in done.stderr
    assert not [line for line in done.stderr.splitlines() if "torch" in line or "transformers" in line]
