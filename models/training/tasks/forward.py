"""The serving forward under gradients: the same instruction, tokens and positions, read at the same place.

The instruction's keys and values are computed once an optimiser step and shared by all its images. Their gradient is
gathered over the step's forwards and goes through the instruction once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch.utils.checkpoint import checkpoint

from models.inputs.processing import Rows
from models.network.base import BaseModel
from models.network.prefix import Prefix

_VOCABULARY_SLICE = 16_384  # head rows turned to fp32 at a time


class Instruction:
    """Keys and values of the tokens before the image, for the forwards of one step."""

    def __init__(self, base: BaseModel, ids: Sequence[int]) -> None:
        computed = Prefix.of(base.network.base_model, ids)
        self._layers = [(layer.keys, layer.values) for layer in computed.growing(1).layers] if ids else []
        self._leaves = [tuple(part.detach().requires_grad_(part.requires_grad) for part in kv) for kv in self._layers]
        self.prefix = Prefix(
            [(keys, values) for keys, values in self._leaves], length=len(ids), keyword=computed.keyword
        )

    def backward(self) -> None:
        """Carry the gradient that the forwards left on keys and values on through the instruction."""
        pairs = [
            (computed, leaf.grad)
            for layer, leaves in zip(self._layers, self._leaves, strict=True)
            for computed, leaf in zip(layer, leaves, strict=True)
            if leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward([computed for computed, _ in pairs], [grad for _, grad in pairs])


def last_hidden(base: BaseModel, rows: Rows, prefix: Prefix) -> torch.Tensor:
    """The feature (B, d) at the answer position, as `PrefillScorer.last_hidden` reads it."""
    inputs = rows.inputs | prefix.inputs(rows.inputs["input_ids"].shape[1], base.device)
    hidden = base.processor.reader.hidden(base.network, inputs)
    return hidden[torch.arange(len(rows.last), device=base.device), rows.last]


def answer_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy (B,) of the answer's token over the whole vocabulary, in fp32: nothing else of the turn is learnt.

    hidden (B, d); weight (V, d), the output embedding; targets (B,) token ids.
    """
    if weight.dtype == torch.float32:
        return F.cross_entropy(F.linear(hidden.float(), weight), targets, reduction="none")
    # The whole of it in fp32 would be gigabytes: slice by slice, and again so on the way back.
    hidden = hidden.float()
    parts = [
        checkpoint(_partition, hidden, part, use_reentrant=False) for part in torch.split(weight, _VOCABULARY_SLICE)
    ]
    return torch.stack(parts).logsumexp(0) - (hidden * weight[targets].float()).sum(-1)


def _partition(hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return (hidden @ rows.float().T).logsumexp(-1)


@contextmanager
def recomputed(layers: Sequence[Any]) -> Iterator[None]:
    """Forwards in here keep only the inputs of these layers and compute the rest again on the way back.

    transformers' own gradient checkpointing would drop the instruction's keys and values.
    """
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again
