"""Activated LoRA (aLoRA, arXiv 2504.12397): adapters that act on the tokens behind the image alone.

    y = W x + [the token stands at or behind the invocation] s·B·A·x

Keys and values of header and image are the base's own, so that questions with different adapters share them. The
products stay beside the weights: no switch between adapters, and rows of several adapters in one forward, which are
grouped by adapter. The numbers are those of PEFT's `alora_invocation_tokens`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from peft.tuners.lora import LoraLayer

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.inputs.prompts import Turn
from scanfleet.models.network.lora import Place

if TYPE_CHECKING:
    from scanfleet.models.inputs.processing import Rows

EVERY = slice(None)
Pair = tuple[torch.Tensor, torch.Tensor]  # A as [adapters, in, rank] and s·B as [adapters, rank, out]


@dataclass(frozen=True, kw_only=True, eq=False)
class ActivatedLora:
    """A loaded aLoRA adapter.

    Attributes:
        invocation: The token ids from which on it acts.
        factors: Plain layer -> A `[in, rank]` and s·B `[rank, out]`, on the layer's device.
    """

    invocation: tuple[int, ...]
    factors: Mapping[Any, Pair]


def activated_lora(places: Sequence[Place], *, name: str, invocation: tuple[int, ...], where: str) -> ActivatedLora:
    """Take the factors of an adapter out of the modules that PEFT made for it.

    Args:
        places: Where the modules were.
        name: Of the adapter in them.
        invocation: The token ids from which on it acts.
        where: The adapter's folder, for messages.

    Raises:
        ModelInvalid: It adapts other things than linear layers.
    """
    factors: dict[Any, Pair] = {}
    for place in places:
        layer = place.adapted
        if not isinstance(layer, LoraLayer) or name not in layer.lora_A:
            raise ModelInvalid(f"{where}: an activated LoRA adapts linear layers alone, not {place.name}")
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        factors[place.plain] = a.detach().T.contiguous(), (layer.scaling[name] * b.detach()).T.contiguous()
    return ActivatedLora(invocation=invocation, factors=factors)


def invokes(invocation: tuple[int, ...], turn: Turn) -> bool:
    """Return whether an adapter acts on all tokens behind the image and on no other.

    PEFT looks for the last occurrence of the invocation in the whole prompt.
    """
    n, after = len(invocation), turn.after
    return [at for at in range(len(after) - n + 1) if after[at : at + n] == invocation] == [0]


@dataclass(kw_only=True, eq=False)
class Stack:
    """Adapters whose products are computed together, each on an equal share of the tokens.

    Attributes:
        adapters: One per share.
        made: Their factors side by side, by layer; smaller ranks are padded with zeros, which add nothing.
    """

    adapters: Sequence[ActivatedLora]
    made: dict[Any, Pair | None] = field(default_factory=dict)

    def of(self, layer: Any) -> Pair | None:
        """Return the factors for a layer; None if no adapter changes it."""
        if layer not in self.made:
            self.made[layer] = self._make(layer)
        return self.made[layer]

    def _make(self, layer: Any) -> Pair | None:
        pairs = [adapter.factors.get(layer) for adapter in self.adapters]
        some = next((pair for pair in pairs if pair is not None), None)
        if some is None:
            return None
        a, b = some
        nothing = a[:, :0], b[:0]
        rank = max(pair[0].shape[1] for pair in pairs if pair is not None)
        if len(pairs) == 1:
            return a[None], b[None]
        each = [_padded(nothing if pair is None else pair, rank) for pair in pairs]
        return torch.stack([a for a, _ in each]), torch.stack([b for _, b in each])


def _padded(pair: Pair, rank: int) -> Pair:
    a, b = pair
    missing = rank - a.shape[1]
    return F.pad(a, (0, missing)), F.pad(b, (0, 0, 0, missing))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Acting:
    stack: Stack
    tokens: torch.Tensor | slice  # of all [rows * tokens] of the forward: equal shares for the adapters, in their order
    part: slice  # of the adapters


class _Active(threading.local):
    """What acts in each thread's forwards: several threads may run one network at the same time."""

    acting: _Acting | None = None


_active = _Active()


@contextmanager
def acting(stack: Stack | None, tokens: torch.Tensor | slice, part: slice = EVERY) -> Iterator[None]:
    """Let adapters act in the forward of this thread that runs inside the block.

    Args:
        stack: The adapters; None: none.
        tokens: Places among `[rows * tokens]`, an equal share for each adapter, in their order.
        part: The adapters that act.
    """
    _active.acting = None if stack is None else _Acting(stack=stack, tokens=tokens, part=part)
    try:
        yield
    finally:
        _active.acting = None


@contextmanager
def acting_behind(stack: Stack | None, rows: Rows) -> Iterator[None]:
    """Let one adapter act on the tokens behind the images in the forward of this thread that runs inside the block."""
    if stack is None:
        yield
        return
    width = rows.inputs["input_ids"].shape[1]
    there = torch.arange(width, device=rows.after.device) >= rows.after[:, None]
    with acting(stack, there.flatten().nonzero().flatten()):
        yield


def watch(layer: Any) -> None:
    """Let adapters act in a plain linear layer; alone this changes no number."""
    if not any(hook is _add for hook in layer._forward_hooks.values()):
        layer.register_forward_hook(_add)


def _add(layer: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
    active = _active.acting
    pair = None if active is None else active.stack.of(layer)
    if active is None or pair is None:
        return
    a, b = (each[active.part] for each in pair)
    x = args[0].flatten(0, -2)[active.tokens].reshape(len(a), -1, args[0].shape[-1])
    delta = x.to(a.dtype) @ a @ b  # [adapters, tokens, out]
    out.view(-1, out.shape[-1])[active.tokens] += delta.flatten(0, 1).to(out.dtype)
