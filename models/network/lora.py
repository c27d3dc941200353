"""Add a LoRA adapter to a network in memory, take its modules out and put them back, and save it.

PEFT replaces the target modules in place; the transformers model keeps its class and its forward. It finds modules by
their paths, and a module trained whole by one adapter renames all that another one adapts below it. So each adapter is
made on the plain network, and at most one has its modules there at a time. An adapter is loaded completely or refused.
PEFT alone would load an adapter whose keys were renamed between releases with every tensor missing and no error.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from scanfleet.models.adapters.card import Adapter, AdapterCard, write_adapter
from scanfleet.models.adapters.settings import SETTINGS, LoraSettings
from scanfleet.models.errors import ModelInvalid, one_line


def lora_config(lora: LoraSettings) -> Any:
    """Build PEFT's configuration from the allowed fields and nothing else.

    The modules of an activated LoRA are made as those of a plain one: where it acts is decided outside of PEFT.
    """
    targets = lora.target_modules
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=lora.use_rslora,
        modules_to_save=list(lora.modules_to_save) if lora.modules_to_save else None,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """A module of a network that an adapter replaces, and what it puts there."""

    parent: Any
    name: str  # of the attribute
    plain: Any
    adapted: Any


def add_lora(network: Any, lora: LoraSettings, *, name: str) -> Any:
    """Add fresh LoRA modules to a network.

    Args:
        network: a transformers model in which no adapter has its modules.
        lora: rank, scaling and target modules.
        name: of the new adapter.

    Returns:
        The PeftModel, with the adapter active.

    Raises:
        ModelInvalid: the settings match no module, or include the output head, whose rows scoring reads directly.
    """
    try:
        model = _wrap(network, lora_config(lora), name)
    except ValueError as error:
        take_out(network)
        raise ModelInvalid(f"the adapter does not fit this model: {one_line(error)}") from error
    if any("lm_head" in key for key in adapter_state(model, name)):
        take_out(network)
        raise ModelInvalid("the adapter changes lm_head, which scoring reads directly; train without it")
    return model


def load_lora(network: Any, adapter: Adapter, *, name: str) -> Any:
    """Load a verified adapter into a network for inference.

    Every tensor of the file must match a parameter, every parameter a tensor, with equal shapes. Otherwise the adapter
    is removed again.

    Args:
        network: a transformers model in which no adapter has its modules.
        adapter: the adapter as read from its folder.
        name: for the adapter in the model.

    Returns:
        The PeftModel, in evaluation mode and without gradients.

    Raises:
        ModelInvalid: the adapter holds no LoRA, is damaged, or does not fit the model; the message names the key.
    """
    model = add_lora(network, lora_of(adapter), name=name)
    try:
        copy_weights(model, adapter, name=name)
    except ModelInvalid:
        take_out(network)
        raise
    model.requires_grad_(False)
    model.eval()
    return model


def lora_of(adapter: Adapter) -> LoraSettings:
    """Return the LoRA settings of an adapter. Raises ModelInvalid if it holds none."""
    if adapter.weights is None or adapter.lora is None:
        raise ModelInvalid(f"{adapter.folder} holds no LoRA")
    return adapter.lora


def copy_weights(model: Any, adapter: Adapter, *, name: str) -> None:
    """Copy an adapter's tensors into the modules `name`, which its settings have made.

    Raises:
        ModelInvalid: The file is damaged, or a tensor or a parameter has no partner; the message names the key.
    """
    try:
        tensors = load_tensors(adapter.weights or b"")
    except SafetensorError as error:
        raise ModelInvalid(f"{adapter.folder}: the weights are not safetensors: {one_line(error)}") from error
    if not all(value.isfinite().all() for value in tensors.values()):
        raise ModelInvalid(f"{adapter.folder}: the weights are not all finite numbers; train again")
    places = adapter_state(model, name)
    expected = {key: place.shape for key, place in places.items()}
    found = {key: value.shape for key, value in tensors.items()}
    if expected != found:
        raise ModelInvalid(
            f"{adapter.folder}: {_difference(expected, found)}; its weights are not those that {SETTINGS} describes "
            "for this model"
        )
    with torch.no_grad():
        for key, place in places.items():
            place.copy_(tensors[key])


def take_out(network: Any) -> list[Place]:
    """Restore the plain modules of a network.

    Returns:
        Where the adapter's modules were, for `put_in`; without it they are gone.
    """
    places = [
        Place(parent=parent, name=name, plain=_plain(child), adapted=child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, LoraLayer | ModulesToSaveWrapper)
    ]
    for place in places:
        setattr(place.parent, place.name, place.plain)
    vars(network).pop("peft_config", None)  # PEFT adds the next adapter to those that it finds here
    return places


def changes(network: Any, parts: tuple[str, ...]) -> bool:
    """Return whether the adapter in a network changes anything below modules of these names, or these themselves."""
    adapted = (name for name, module in network.named_modules() if isinstance(module, LoraLayer | ModulesToSaveWrapper))
    return any(f"{name}.".startswith(f"{part}.") for name in adapted for part in parts)


def put_in(places: list[Place]) -> None:
    """Put an adapter's modules back into its network, where no other adapter may have any."""
    for place in places:
        setattr(place.parent, place.name, place.adapted)


def _plain(module: LoraLayer | ModulesToSaveWrapper) -> Any:
    return module.original_module if isinstance(module, ModulesToSaveWrapper) else module.get_base_layer()


def adapter_state(model: Any, name: str) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors, not copies, by their names in a file.

    Only the adapter's modules are asked for their state. On some CPUs bitsandbytes packs 4-bit weights for their first
    forward, and unpacks them with a loss when the state of the whole model is requested.

    Args:
        model: the PeftModel.
        name: of the adapter.

    Returns:
        LoRA pairs A [r, in_features] and B [out_features, r], and the parameters of fully trained modules in any shape.
    """
    state = {path: value.detach() for path, value in model.named_parameters() if path.endswith(f".{name}")}
    for path, module in model.named_modules():
        if path.endswith(f".{name}"):
            state.update(module.state_dict(prefix=f"{path}."))
    found: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, state_dict=state, adapter_name=name, save_embedding_layers=False
    )
    return found


def save_lora(
    folder: Path, model: Any, *, card: AdapterCard, lora: LoraSettings, name: str = "default", head: bytes | None = None
) -> AdapterCard:
    """Write one adapter of a PeftModel as an adapter folder.

    Args:
        folder: to write to.
        model: the PeftModel.
        card: the adapter's data.
        lora: the settings that it was trained with.
        name: of the adapter in the model.
        head: a classification head trained with it, as bytes from `models.scoring.head`.

    Returns:
        The card as written.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in adapter_state(model, name).items()}
    return write_adapter(folder, card=card, lora=lora, weights=save_tensors(state), head=head)


def _wrap(model: Any, config: Any, name: str) -> Any:
    with warnings.catch_warnings():
        # PEFT reads an attribute that transformers 5.23 renamed; both names still work.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, config, adapter_name=name)


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if unexpected:
        return f"{len(unexpected)} unexpected tensors, the first is {unexpected[0]}"
    if missing:
        return f"{len(missing)} tensors are missing, the first is {missing[0]}"
    key = next(key for key in sorted(expected) if expected[key] != found[key])
    return f"{key} has shape {tuple(found[key])}, the model needs {tuple(expected[key])}"
