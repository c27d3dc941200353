"""Named ways to fine-tune, each a small TOML file beside this one: `load_recipe("lora")`.

A recipe says what is trained and how fast; it knows no model. Which modules that means in a network comes from its
family (`models.training.tasks.targets`). Fields can be overridden one by one; every mistake is refused in one line.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic
from pydantic import ConfigDict, Field, ValidationError, model_validator

from models.errors import ModelInvalid
from models.inputs.sources import POCKET

if TYPE_CHECKING:
    from models.network.base import BaseModel

AUTO = "auto"
Trains = Literal["language", "language+projector", "vision-blocks", "head"]
Mixing = Literal["none", "mixup", "cutmix"]

Share = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[int, Field(ge=1, le=1000)]


class Recipe(pydantic.BaseModel):
    """What is trained, and how.

    trains: "language" is LoRA on every linear layer of the language model; "language+projector" trains what leads from
    the vision tower to it whole besides; "vision-blocks" trains the last `vision_blocks` of the tower whole and nothing
    else; "head" is a linear layer over the last hidden state.
    batch: images a forward; accumulation: forwards an optimiser step. epochs: raised until there are `min_steps` steps,
    but not over `max_epochs`. warm_up: share of the steps, before the cosine. patience: epochs without a better
    validation loss, after which it stops; 0: never. small_share: most that enlarged crops of small objects make up of
    what is seen; small_below: share of the image's area under which a box is small. pixel_factor: times the question's
    pixel budget, for training images. vision_cache: the frozen tower's features are kept on disk.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)]
    about: str
    trains: Trains
    precision: Literal["any", "nf4"] = "any"  # that the base must be loaded in
    r: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Share = 0.05  # of the LoRA, or before the head
    vision_blocks: Annotated[int, Field(ge=0)] = 0
    lr: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    warm_up: Share = 0.03
    clip: Annotated[float, Field(gt=0)] = 1.0  # norm of the gradient
    batch: Annotated[int, Field(ge=1, le=1024)] = 4
    accumulation: Annotated[int, Field(ge=1, le=4096)] = 4
    epochs: Epochs = 3
    min_steps: Annotated[int, Field(ge=0)] = 0
    max_epochs: Annotated[int, Field(ge=0, le=1000)] = 0  # 0: as many as min_steps takes
    patience: Annotated[int, Field(ge=0)] = 2
    gradient_checkpointing: bool = True
    pixel_factor: Annotated[float, Field(ge=1, le=16)] = 1.0
    balanced: bool = True  # every class is seen equally often
    small_share: Annotated[float, Field(ge=0, le=0.25)] = 0.25
    small_below: Share = 0.05
    mixing: Mixing = "none"
    vision_cache: bool = True

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.trains == "vision-blocks") != (self.vision_blocks > 0):
            raise ValueError('vision_blocks belongs to trains = "vision-blocks", and must be 1 or more there')
        if self.trains == "head" and self.mixing != "none":
            raise ValueError("a head is trained on kept hidden states, which cannot be mixed: leave mixing at none")
        if self.mixing != "none" and self.batch < 2:
            raise ValueError("images of one forward are mixed with each other: batch must be 2 or more")
        if self.max_epochs and self.max_epochs < self.epochs:
            raise ValueError(f"max_epochs ({self.max_epochs}) must not be under epochs ({self.epochs})")
        return self

    @property
    def effective_batch(self) -> int:
        """Images an optimiser step."""
        return self.batch * self.accumulation

    def n_epochs(self, steps_an_epoch: int) -> int:
        """How often the images are gone through when that takes so many steps."""
        wanted = max(self.epochs, -(-self.min_steps // steps_an_epoch))
        return min(wanted, self.max_epochs) if self.max_epochs else wanted


def recipe_names() -> tuple[str, ...]:
    """Of the recipes that come along, sorted."""
    folder = resources.files(__name__)
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


def load_recipe(name: str, *, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by name, with some fields set otherwise. Raises ModelInvalid naming the recipe and the field."""
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
    """What a training may come to where the base is not loaded, and its precision so unknown: never none.

    base_model: its name. Raises ModelInvalid where no recipe that the name may stand for takes these fields.
    """
    found, faults = [], []
    for each in _choices(base_model) if name == AUTO else (name,):
        try:
            found.append(load_recipe(each, overrides=overrides))
        except ModelInvalid as error:
            faults.append(error)
    if not found:
        raise faults[0]
    return found


def _choices(base_model: str) -> tuple[str, ...]:
    """That "auto" may take for a base model."""
    return ("pocket-lora",) if base_model == POCKET else ("lora", "qlora")


def recipe_for(base: BaseModel, name: str = AUTO, *, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe that this base can be trained by; "auto": the one made for it. Raises ModelInvalid where it cannot."""
    if name == AUTO:
        name = "qlora" if base.precision == "nf4" else "pocket-lora" if base.checkpoint.name == POCKET else "lora"
    recipe = load_recipe(name, overrides=overrides)
    check_base(recipe, base)
    return recipe


def check_base(recipe: Recipe, base: BaseModel) -> None:
    """Raises ModelInvalid for a base in another precision than the recipe needs."""
    if recipe.precision not in ("any", base.precision):
        raise ModelInvalid(
            f"recipe {recipe.name} trains over a base in {recipe.precision}, this one is in {base.precision}: "
            f"load it with precision {recipe.precision} or choose recipe lora"
        )
