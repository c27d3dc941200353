"""A base during training: the recipe's modules added, everything else frozen, and all of it removed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.activations import GELUTanh

from scanfleet.models.adapters.card import Adapter
from scanfleet.models.adapters.settings import LoraSettings
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import BaseModel
from scanfleet.models.network.cpu.gelu import SigmoidGelu
from scanfleet.models.network.cpu.packed import differentiable_packed
from scanfleet.models.network.lora import adapter_state, add_lora, copy_weights, lora_of, take_out
from scanfleet.models.network.merging import adapted_layers
from scanfleet.models.recipes import Recipe
from scanfleet.models.training.tasks.targets import (
    Matched,
    check_matches,
    count_matches,
    decoder_layers,
    is_vision,
    lora_settings,
)

NAME = "fit"  # of the adapter while it is trained; must not be an attribute of a torch module


@dataclass(frozen=True, kw_only=True, eq=False)
class ActiveLora:
    """The trained modules of a base.

    Attributes:
        base: The base model.
        lora: Settings of the LoRA.
        matched: The modules that the recipe matched.
        layers: The language model's layers, in order.
        dropouts: Dropout modules of the LoRA.
        peft: The PeftModel around the network.
    """

    base: BaseModel
    lora: LoraSettings
    matched: Matched
    layers: list[Any]
    dropouts: list[Any]
    peft: Any

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The trained tensors themselves, by their names in a file: LoRA A `[rank, in]`, B `[out, rank]`."""
        return adapter_state(self.peft, NAME)

    @property
    def acts_behind(self) -> bool:
        """Whether the modules act on the tokens behind the image alone."""
        return self.lora.alora_invocation_tokens is not None

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let the base alone answer inside the block, without gradients."""
        with torch.no_grad(), self.peft.disable_adapter():
            yield

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The tensors that require a gradient."""
        return [parameter for parameter in self.base.network.parameters() if parameter.requires_grad]

    def dropout(self, on: bool) -> None:
        """Switch the LoRA's dropout; the network itself stays in evaluation mode."""
        for module in self.dropouts:
            module.train(on)


@contextmanager
def activated(
    base: BaseModel, recipe: Recipe, *, seed: int, start: Adapter | None = None, invocation: tuple[int, ...] = ()
) -> Iterator[ActiveLora]:
    """Add fresh modules of a recipe to a base, for this thread alone; its scorers wait.

    The base is restored at the end.

    Args:
        base: The loaded base model.
        recipe: What is trained.
        seed: Of the fresh modules.
        start: An adapter to continue from: its modules are trained, whatever the recipe trains.
        invocation: The token ids from which on fresh modules act; (): on all.

    Raises:
        ModelInvalid: The recipe, or the adapter, does not fit the base.
    """
    network, family = base.network, base.family
    everywhere = recipe.trains != "language" or start is not None
    with base._lock.exclusive(), _differentiable(base, everywhere=everywhere), differentiable_packed(network):
        base._switch(None)
        settings = lora_settings(recipe, network, family, invocation) if start is None else lora_of(start)
        if settings.alora_invocation_tokens and not base.processor.reader.blind_to_questions:
            raise ModelInvalid(
                f"{family.model_type} models read the question with the image, so no adapter can act behind it "
                "alone: choose recipe lora"
            )
        try:
            with torch.random.fork_rng(devices=_cuda(base)):
                torch.manual_seed(seed)
                peft = add_lora(network, settings, name=NAME)
            if start is not None:
                copy_weights(peft, start, name=NAME)
                matched = count_matches(settings, network, family, NAME)
            else:
                matched = check_matches(recipe, settings, network, family, NAME)
            network.eval()
            yield ActiveLora(
                base=base,
                lora=settings,
                matched=matched,
                layers=decoder_layers(network, family),
                dropouts=[layer.lora_dropout[NAME] for _, layer in adapted_layers(network, NAME)],
                peft=peft,
            )
        finally:
            take_out(network)
            network.requires_grad_(False)
            network.eval()


@contextmanager
def _differentiable(base: BaseModel, *, everywhere: bool) -> Iterator[None]:
    """Replace activations for which serving uses faster ones without a gradient; a frozen tower keeps those."""
    swapped: list[tuple[Any, str, Any]] = []
    for path, module in base.network.named_modules():
        if everywhere or not is_vision(path, base.family):
            swapped += [(module, name, child) for name, child in module.named_children() if type(child) is SigmoidGelu]
    for module, name, _ in swapped:
        setattr(module, name, GELUTanh())
    try:
        yield
    finally:
        for module, name, child in swapped:
            setattr(module, name, child)


def _cuda(base: BaseModel) -> list[int]:
    return [base.device.index or 0] if base.device.type == "cuda" else []
