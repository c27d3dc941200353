"""Named ways to fine-tune, each a small TOML file beside this one: `load_recipe("lora")`.

A recipe defines what is trained and how fast, independently of the model. The modules that this means in a network
follow from its family (`models.training.tasks.targets`). Fields can be overridden one by one; a wrong one is refused
with one line.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic
from pydantic import ConfigDict, Field, ValidationError, model_validator

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.inputs.sources import POCKET

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel

AUTO = "auto"
Trains = Literal["language", "language+projector", "vision-blocks", "everything", "head"]
Mixing = Literal["none", "mixup", "cutmix"]

Share = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[int, Field(ge=1, le=1000)]


class Recipe(pydantic.BaseModel):
    """What is trained, and how.

    Attributes:
        trains: "language" is LoRA on every linear layer of the language model. "language+projector" also trains the
            projector from the vision tower whole. "vision-blocks" trains only the last `vision_blocks` of the tower,
            whole. "everything" is LoRA on every linear layer of language model, projector and tower. "head" is a linear
            layer over the last hidden state.
        activated: The LoRA acts on the tokens behind the image alone (aLoRA).
        precision: Precision that the base must be loaded in.
        dropout: Of the LoRA, or before the head.
        warm_up: Share of the steps before the cosine.
        clip: Largest norm of the gradient.
        batch: Images per forward.
        accumulation: Forwards per optimiser step.
        epochs: Raised until there are `min_steps` steps, but not above `max_epochs`; `max_epochs` 0: no limit.
        patience: Epochs without a better validation loss after which training stops; 0: never.
        pixel_factor: Times the question's pixel budget, for training images.
        balanced: Every class is seen equally often.
        small_share: Largest share of enlarged crops of small objects among the images of a class.
        small_below: Share of the image's area below which a box is small.
        vision_cache: The frozen tower's features are kept on disk.

    Raises:
        ValidationError: A field is unknown or out of range, or fields contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)]
    about: str
    trains: Trains
    activated: bool = False
    precision: Literal["any", "nf4"] = "any"
    r: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Share = 0.05
    vision_blocks: Annotated[int, Field(ge=0)] = 0
    lr: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    warm_up: Share = 0.03
    clip: Annotated[float, Field(gt=0)] = 1.0
    batch: Annotated[int, Field(ge=1, le=1024)] = 4
    accumulation: Annotated[int, Field(ge=1, le=4096)] = 4
    epochs: Epochs = 3
    min_steps: Annotated[int, Field(ge=0)] = 0
    max_epochs: Annotated[int, Field(ge=0, le=1000)] = 0
    patience: Annotated[int, Field(ge=0)] = 2
    gradient_checkpointing: bool = True
    pixel_factor: Annotated[float, Field(ge=1, le=16)] = 1.0
    balanced: bool = True
    small_share: Annotated[float, Field(ge=0, le=0.25)] = 0.25
    small_below: Share = 0.05
    mixing: Mixing = "none"
    vision_cache: bool = True

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.trains == "vision-blocks") != (self.vision_blocks > 0):
            raise ValueError('vision_blocks belongs to trains = "vision-blocks", and must be 1 or more there')
        if self.activated and self.trains != "language":
            raise ValueError('activated belongs to trains = "language": what stands behind the image is the language')
        if self.trains == "head" and self.mixing != "none":
            raise ValueError("a head is trained on cached hidden states, which cannot be mixed: leave mixing at none")
        if self.mixing != "none" and self.batch < 2:
            raise ValueError("mixing combines images of one forward: batch must be 2 or more")
        if self.max_epochs and self.max_epochs < self.epochs:
            raise ValueError(f"max_epochs ({self.max_epochs}) must not be below epochs ({self.epochs})")
        return self

    @property
    def effective_batch(self) -> int:
        """Images per optimiser step."""
        return self.batch * self.accumulation

    def n_epochs(self, steps_an_epoch: int) -> int:
        """Return the number of epochs when one takes `steps_an_epoch` optimiser steps."""
        wanted = max(self.epochs, -(-self.min_steps // steps_an_epoch))
        return min(wanted, self.max_epochs) if self.max_epochs else wanted


def recipe_names() -> tuple[str, ...]:
    """Return the names of the built-in recipes, sorted."""
    folder = resources.files(__name__)
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


def load_recipe(name: str, *, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load a recipe by name.

    Args:
        name: One of `recipe_names`.
        overrides: Fields to set otherwise.

    Raises:
        ModelInvalid: There is no such recipe, or a field is wrong; the message names both.
    """
    if name not in recipe_names():
        raise ModelInvalid(f"no recipe {name!r}; choose one of {', '.join(recipe_names())}")
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    try:
        return Recipe.model_validate({"name": name} | tomllib.loads(text) | dict(overrides or {}))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, Recipe.model_fields, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ModelInvalid(f"recipe {name}: no field {where}{meant}") from error
        words = problem["msg"].removeprefix("Value error, ")
        raise ModelInvalid(f"recipe {name}: {f'{where}: ' if where else ''}{words}") from error


def possible_recipes(name: str, base_model: str, *, overrides: Mapping[str, Any] | None = None) -> Sequence[Recipe]:
    """Return the recipes that a training may use, where the base is not loaded and its precision unknown.

    Args:
        name: A recipe, or "auto".
        base_model: Name of the base model.
        overrides: Fields to set otherwise.

    Returns:
        At least one recipe.

    Raises:
        ModelInvalid: No recipe that the name may stand for takes these fields.
    """
    found, errors = [], []
    for each in _choices(base_model) if name == AUTO else (name,):
        try:
            found.append(load_recipe(each, overrides=overrides))
        except ModelInvalid as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def _choices(base_model: str) -> tuple[str, ...]:
    """Return the recipes that "auto" may begin with for a base model."""
    return ("pocket-lora",) if base_model == POCKET else ("lora", "qlora")


def recipes_for(base: BaseModel, name: str = AUTO, *, overrides: Mapping[str, Any] | None = None) -> tuple[Recipe, ...]:
    """Return the recipes that this base is trained by, the cheapest first: the next one where a loss stays at chance.

    Args:
        base: The loaded base model.
        name: A recipe, alone; "auto" chooses by the base.
        overrides: Fields to set otherwise.

    Raises:
        ModelInvalid: There is no such recipe, a field is wrong, or the base has another precision.
    """
    names: tuple[str, ...] = (name,)
    if name == AUTO:
        first = "qlora" if base.precision == "nf4" else "lora"
        pocket = base.checkpoint.name == POCKET and base.precision != "nf4"
        names = ("pocket-lora", "pocket-full") if pocket else (first, "full-lora")
    recipes = tuple(load_recipe(each, overrides=overrides) for each in names)
    for recipe in recipes:
        check_base(recipe, base)
    return recipes


def check_base(recipe: Recipe, base: BaseModel) -> None:
    """Check that a base has the precision that a recipe needs.

    Raises:
        ModelInvalid: It has another one.
    """
    if recipe.precision not in ("any", base.precision):
        raise ModelInvalid(
            f"recipe {recipe.name} trains over a base in {recipe.precision}, this one is in {base.precision}: "
            f"load it with precision {recipe.precision} or choose recipe lora"
        )
