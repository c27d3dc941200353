"""The modules of a network that a recipe trains: found by its family, counted and checked.

A list of suffixes is not enough: in Qwen2.5-VL the vision tower's layers have the language model's names, and would be
adapted with it silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.constants import DUMMY_TARGET_MODULES

from scanfleet.models.adapters.settings import LoraSettings
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.families import Family
from scanfleet.models.network.merging import adapted_layers
from scanfleet.models.recipes import Recipe

# The projector from the vision tower to the language model, by its names in the families.
PROJECTOR = re.compile(
    r"(.*\.)?(visual\.merger|visual\.deepstack_merger_list\.\d+|multi_modal_projector|connector|language_projection"
    r"|image_embed\.img_projection\w*)"
)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The modules that a recipe trains.

    Attributes:
        language: Modules with a LoRA in the language model.
        vision: Modules with a LoRA in the vision part.
        whole: Names of the modules trained whole.
    """

    language: int
    vision: int
    whole: tuple[str, ...]


def lora_settings(recipe: Recipe, network: Any, family: Family, invocation: tuple[int, ...] = ()) -> LoraSettings:
    """Return the LoRA settings of a recipe for a network.

    Args:
        recipe: What is trained.
        network: The transformers model.
        family: Its family.
        invocation: The token ids from which on the LoRA acts; (): on all.

    Raises:
        ModelInvalid: The network lacks the modules that the recipe trains.
    """
    whole: tuple[str, ...] | None = None
    targets = family.language_linear
    if recipe.trains == "everything":
        targets = "|".join([family.language_linear, *_patterns(network, family)])
    if recipe.trains == "language+projector":
        whole = projector(network, family)
    if recipe.trains == "vision-blocks":
        whole, targets = last_blocks(network, family, recipe.vision_blocks), DUMMY_TARGET_MODULES
    return LoraSettings(
        r=recipe.r,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        modules_to_save=whole,
        alora_invocation_tokens=invocation or None,
    )


def projector(network: Any, family: Family) -> tuple[str, ...]:
    """Return the names of the modules between vision tower and language model.

    Raises:
        ModelInvalid: None is known in this family.
    """
    found = tuple(name for name, _ in _vision_modules(network, family) if PROJECTOR.fullmatch(name))
    if not found:
        raise ModelInvalid(f"no projector is known in a {family.model_type} model; use recipe lora")
    return found


def vision_linear(network: Any, family: Family) -> list[str]:
    """Return the names of the linear layers of projector and vision blocks that the output depends on.

    Raises:
        ModelInvalid: No projector is known in this family.
    """
    blocks, depth = _blocks(network, family)
    parts = projector(network, family) + tuple(f"{blocks}.{number}" for number in range(_used(network.config, depth)))
    names = [name for name, module in _vision_modules(network, family) if isinstance(module, torch.nn.Linear)]
    inside = [name for name in names if any(name == part or name.startswith(f"{part}.") for part in parts)]
    return [name.removesuffix(".base_layer") for name in inside if ".lora_" not in name]


def _patterns(network: Any, family: Family) -> list[str]:
    """Return patterns of `vision_linear`, one for the same layer of all blocks: a card of thousands would be long."""
    blocks, depth = _blocks(network, family)
    numbers = "|".join(map(str, range(_used(network.config, depth))))
    inside = rf"{re.escape(blocks)}\.(?:{numbers})\."
    patterns = dict.fromkeys(
        re.escape(name) if (block := re.match(inside, name)) is None else inside + re.escape(name[block.end() :])
        for name in vision_linear(network, family)
    )
    return list(patterns)


def last_blocks(network: Any, family: Family, count: int) -> tuple[str, ...]:
    """Return the names of the last `count` blocks of the vision tower that its output depends on.

    Raises:
        ModelInvalid: The tower has fewer.
    """
    name, depth = _blocks(network, family)
    used = _used(network.config, depth)
    if used < count:
        raise ModelInvalid(f"the vision tower has {used} blocks, the recipe trains {count}; lower vision_blocks")
    return tuple(f"{name}.{number}" for number in range(used - count, used))


def _blocks(network: Any, family: Family) -> tuple[str, int]:
    """Return the name of the vision tower's longest list of blocks, and their number."""
    rows = [
        (name, len(module)) for name, module in _vision_modules(network, family) if type(module) is torch.nn.ModuleList
    ]
    return max(rows, key=lambda row: row[1], default=("", 0))


def _used(config: Any, depth: int) -> int:
    """Return the number of blocks up to the one whose output is used; LLaVA leaves out the last."""
    values = config.to_dict()
    layers = values.get("vision_feature_layer", values["vision_config"].get("feature_layer", -1))
    each = [layers] if isinstance(layers, int) else layers
    return max(depth + 1 + layer if layer < 0 else layer for layer in each)


def _vision_modules(network: Any, family: Family) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in network.named_modules() if is_vision(name, family)]


def is_vision(name: str, family: Family) -> bool:
    """Return whether a module of this name belongs to the vision tower or the projector."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in family.vision)


def check_matches(recipe: Recipe, lora: LoraSettings, network: Any, family: Family, name: str) -> Matched:
    """Count the LoRA modules `name`, and check that they cover the language model's layers alike and nothing else.

    Otherwise a training of other modules than the recipe's would go unnoticed.

    Raises:
        ModelInvalid: They sit elsewhere, or some are missing.
    """
    found = count_matches(lora, network, family, name)
    n = sum(1 for _ in adapted_layers(network, name))
    in_language = recipe.trains in ("language", "language+projector", "everything")
    expected = _language_layers(network, family) if in_language else 0
    others = len(vision_linear(network, family)) if recipe.trains == "everything" else 0
    if (found.language, found.vision, n) != (expected, others, expected + others):
        raise ModelInvalid(
            f"recipe {recipe.name} matched {found.language} layers of the language model and {n - found.language} "
            f"others, not {expected} and {others}; its layers are not named as in its family"
        )
    return found


def count_matches(lora: LoraSettings, network: Any, family: Family, name: str) -> Matched:
    """Count the LoRA modules `name`."""
    paths = [path for path, _ in adapted_layers(network, name)]
    language = sum(re.fullmatch(family.language_linear, path) is not None for path in paths)
    return Matched(
        language=language, vision=sum(is_vision(path, family) for path in paths), whole=lora.modules_to_save or ()
    )


def _language_layers(network: Any, family: Family) -> int:
    """Return the number of linear layers to adapt, by the configuration: as many in each layer as in the first."""
    depth = int(network.config.get_text_config(decoder=True).num_hidden_layers)
    names = [name for name, _ in network.named_modules() if re.fullmatch(family.language_linear, name)]
    first = [name for name in names if re.search(r"\blayers\.0\.", name)]
    return depth * len(first)


def decoder_layers(network: Any, family: Family) -> list[Any]:
    """Return the language model's layers, in order."""
    names = (name for name, _ in network.named_modules() if re.fullmatch(family.language_linear, name))
    paths = dict.fromkeys(re.match(r".*?\.layers\.\d+", name).group() for name in names)  # type: ignore[union-attr]
    return [network.get_submodule(path) for path in paths]
