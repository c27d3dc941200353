"""A LoRA that a checkpoint brings for images, in its folder vision-lora.

It becomes part of the language model while loading, as in the released model; fine-tuning comes on top.

    W' = round(W + alpha / r · B·A)     the sum in fp32, rounded once to W's dtype
    y = W x + alpha / r · B A x         for 4- and 8-bit weights, which cannot take the sum
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors import SafetensorError
from safetensors.torch import load_file

from scanfleet.models.errors import ModelInvalid, one_line, unreadable

FOLDER = "vision-lora"
_PREFIX = "base_model.model."  # PEFT's prefix of a module's name
_CHANGES_THE_SUM = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")


def add_vision_lora(network: Any, checkpoint: Path) -> None:
    """Add the checkpoint's vision LoRA to a loaded network, in place; without one, do nothing.

    Args:
        network: the loaded network.
        checkpoint: its folder.

    Raises:
        ModelInvalid: the LoRA cannot be read or does not fit the model.
    """
    folder = checkpoint / FOLDER
    if not folder.is_dir():
        return
    scale, tensors = _read(folder)
    names = sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))
    if {f"{name}.lora_{part}.weight" for name in names for part in "AB"} != tensors.keys():
        raise ModelInvalid(f"{folder} holds tensors other than pairs of lora_A and lora_B; fetch the checkpoint again")
    for name in names:
        layer = _layer(network, name.removeprefix(_PREFIX), folder)
        a, b = (tensors[f"{name}.lora_{part}.weight"].to(layer.weight.device) for part in "AB")
        if (len(b), a.shape[1], len(a)) != (layer.out_features, layer.in_features, b.shape[1]):
            raise ModelInvalid(f"{folder}: {name} does not fit the model's weights; fetch the checkpoint again")
        if layer.weight.is_floating_point():
            total = layer.weight.data.float() + scale * (b.float() @ a.float())
            layer.weight.data = total.to(layer.weight.dtype)
        else:
            layer.register_forward_hook(_beside(a.to(network.dtype), b.to(network.dtype), scale))


def _beside(a: torch.Tensor, b: torch.Tensor, scale: float) -> Callable[..., torch.Tensor]:
    """Return a hook that adds the delta of a [r, in_features] and b [out_features, r] to a layer's output."""

    def add(_layer: torch.nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        return out + scale * F.linear(F.linear(args[0], a), b)

    return add


def _layer(network: Any, name: str, folder: Path) -> Any:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise ModelInvalid(f"{folder} changes {name}, which the model does not have") from error


def _read(folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Return alpha / r, and the tensors by PEFT's names. Settings that are not needed are ignored."""
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
        scale = float(settings["lora_alpha"]) / int(settings["r"])
    except OSError as error:
        raise unreadable(str(folder), error) from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelInvalid(f"{folder} cannot be read: {one_line(error)}") from error
    unknown = [name for name in _CHANGES_THE_SUM if settings.get(name)]
    if unknown:
        raise ModelInvalid(f"{folder}: {', '.join(unknown)} is set, which is not supported; use a plain LoRA")
    return scale, tensors
