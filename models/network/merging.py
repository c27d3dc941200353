"""Merge the active adapter into the base's weights, and restore the base bit for bit.

    W' = round(W + s·B·A)       the delta from PEFT's `get_delta_weight`, the sum in fp32, rounded once to W's dtype

An unmerged LoRA costs about a third of the speed: two small products beside every large one. Subtracting the delta from
W' would not give W again, so the original weights are kept on the host and never written. 4- and 8-bit weights cannot
take the delta: those adapters stay beside the weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer


def adapted_layers(network: Any, name: str) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the path and the LoRA layer of every layer that adapter `name` changes."""
    for path, module in network.named_modules():
        if isinstance(module, LoraLayer) and name in module.r:
            yield path, module


def reason_not_merged(network: Any, name: str) -> str | None:
    """Return the reason why adapter `name` must stay beside the weights, or None if it can be merged."""
    owners = Counter(id(weight) for module in network.modules() for weight in module.parameters(recurse=False))
    for path, layer in adapted_layers(network, name):
        if type(layer) is not Linear or layer.lora_variant.get(name) is not None or layer.lora_bias[name]:
            return f"{path} is not a plain LoRA over a linear layer in full precision"
        weight = layer.get_base_layer().weight
        if not weight.is_floating_point():
            return f"{path} holds {weight.dtype} weights"
        if owners[id(weight)] > 1:
            return f"{path} shares its weight with another layer"
    return None


def bypass(network: Any) -> None:
    """Let the LoRA layers of a network pass on what their plain layers say, into which they will be merged."""
    for module in network.modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(False)


class Merger:
    """Keeps the original weights of every layer that an adapter was merged into. Not thread-safe."""

    def __init__(self) -> None:
        self._originals: dict[torch.nn.Parameter, torch.Tensor] = {}  # on the host
        self._changed: set[torch.nn.Parameter] = set()  # weights that differ, or may differ, from their originals

    @torch.inference_mode(False)
    @torch.no_grad()
    def switch(self, network: Any, name: str | None) -> None:
        """Merge one adapter after restoring the weights of the previous one.

        On an error all weights are restored and the error is raised. If that fails too, the next call restores them
        first.

        Args:
            network: the network with the adapter loaded.
            name: of the adapter; None: only restore the base.
        """
        layers = [] if name is None else [layer for _, layer in adapted_layers(network, name)]
        try:
            for weight in self._changed - {layer.get_base_layer().weight for layer in layers}:
                self._put_back(weight)
            for layer in layers:
                self._merge(layer, str(name))
        except BaseException:
            self._put_all_back()
            raise

    def forget(self) -> None:
        """Free the memory of the original weights; no adapter may be merged."""
        if self._changed:
            raise AssertionError("an adapter is still merged")
        self._originals.clear()

    def _merge(self, layer: LoraLayer, name: str) -> None:
        weight = layer.get_base_layer().weight
        if weight not in self._originals:
            self._originals[weight] = weight.data.to("cpu")  # on a CPU the same tensor, which is never written
        original = self._originals[weight].to(weight.device)
        delta = layer.get_delta_weight(name)
        self._changed.add(weight)
        _place(weight, (original.float() + delta.float()).to(original.dtype))

    def _put_all_back(self) -> None:
        for weight in list(self._changed):
            self._put_back(weight)

    def _put_back(self, weight: torch.nn.Parameter) -> None:
        _place(weight, self._originals[weight])
        self._changed.discard(weight)


def _place(weight: torch.nn.Parameter, values: torch.Tensor) -> None:
    if weight.device.type == "cpu":
        weight.data = values
    else:
        weight.data.copy_(values)  # in place: restoring needs no memory, even on a full device
