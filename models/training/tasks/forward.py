"""The serving forward under gradients: same instruction, tokens and positions, read at the same place.

The instruction's keys and values are computed once per optimiser step and shared by all its images. Their gradient is
summed over the step's forwards and goes through the instruction once, at the end. Modules that act behind the image
alone leave it, and the image, to the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch.utils.checkpoint import checkpoint

from scanfleet.models.inputs.processing import Rows
from scanfleet.models.network.base import BaseModel
from scanfleet.models.network.prefix import Prefix
from scanfleet.models.scoring.behind import ask, show
from scanfleet.models.training.tasks.network import ActiveLora

_VOCABULARY_SLICE = 16_384  # rows of the output embedding converted to fp32 at a time


class Instruction:
    """Keys and values of the tokens before the image, for the forwards of one step.

    Args:
        base: The loaded base model.
        ids: Token ids of the instruction.
    """

    def __init__(self, base: BaseModel, ids: Sequence[int]) -> None:
        computed = Prefix.of(base.network.base_model, ids)
        self._layers = [(layer.keys, layer.values) for layer in computed.growing(1).layers] if ids else []
        self._leaves = [tuple(part.detach().requires_grad_(part.requires_grad) for part in kv) for kv in self._layers]
        self.prefix = Prefix(
            [(keys, values) for keys, values in self._leaves], length=len(ids), keyword=computed.keyword
        )

    def backward(self) -> None:
        """Propagate the gradient on keys and values, which the forwards left, through the instruction."""
        pairs = [
            (computed, leaf.grad)
            for layer, leaves in zip(self._layers, self._leaves, strict=True)
            for computed, leaf in zip(layer, leaves, strict=True)
            if leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward([computed for computed, _ in pairs], [grad for _, grad in pairs])


def last_hidden(base: BaseModel, rows: Rows, prefix: Prefix) -> torch.Tensor:
    """Return the hidden state at the answer position, as `PrefillScorer.last_hidden` reads it, with its gradient.

    Args:
        base: The loaded base model.
        rows: The inputs of one forward.
        prefix: Keys and values of the instruction.

    Returns:
        `[batch, hidden]` in the network's dtype.
    """
    inputs = rows.inputs | prefix.inputs(rows.inputs["input_ids"].shape[1], base.device)
    hidden = base.processor.reader.hidden(base.network, inputs)
    return hidden[torch.arange(len(rows.last), device=base.device), rows.last]


def last_hidden_behind(lora: ActiveLora, rows: Rows, prefix: Prefix, question: Sequence[int]) -> torch.Tensor:
    """Return the same of a LoRA that acts behind the image alone: the images by the base, without gradients.

    Args:
        lora: The trained modules.
        rows: The inputs of one forward.
        prefix: Keys and values of the instruction, by the base.
        question: Token ids behind the image.

    Returns:
        `[batch, hidden]` in the network's dtype.
    """
    longest, ids, places = int(rows.after.max()), rows.inputs["input_ids"], rows.inputs["position_ids"]
    images = rows.inputs | {"input_ids": ids[:, :longest], "position_ids": places[..., :longest]}
    with lora.silent():
        shown = show(lora.base, lora.base.network, prefix, images)
    return ask(lora.base.network, [question], rows.after, places, shown)[0, :, -1]


def answer_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of the answer's token over the whole vocabulary; no other token is learnt.

    Args:
        hidden: `[batch, hidden]`, any floating type.
        weight: `[vocabulary, hidden]`, the output embedding.
        targets: `[batch]` int64 token ids.

    Returns:
        `[batch]` fp32, in nats.
    """
    if weight.dtype == torch.float32:
        return F.cross_entropy(F.linear(hidden.float(), weight), targets, reduction="none")
    # All logits in fp32 would be gigabytes: they are computed slice by slice, and again so in the backward pass.
    hidden = hidden.float()
    parts = [
        checkpoint(_partition, hidden, part, use_reentrant=False) for part in torch.split(weight, _VOCABULARY_SLICE)
    ]
    return torch.stack(parts).logsumexp(0) - (hidden * weight[targets].float()).sum(-1)


def _partition(hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return (hidden @ rows.float().T).logsumexp(-1)


@contextmanager
def recomputed(layers: Sequence[Any]) -> Iterator[None]:
    """Keep only the inputs of these layers in forwards, and compute the rest again in the backward pass.

    transformers' own gradient checkpointing would drop the instruction's keys and values.
    """
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own method takes effect again
