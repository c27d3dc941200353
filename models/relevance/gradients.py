"""What gradient maps share: a network that carries gradients while others serve with it, and where they begin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from models.network.base import BaseModel

_VOCABULARY_SLICE = 16_384  # head rows turned to fp32 at a time
_one_at_a_time = threading.Lock()


@contextmanager
def differentiable(base: BaseModel) -> Iterator[None]:
    """The base carries gradients in here. One thread at a time; others go on scoring with it and get the same numbers:
    4-bit layers that a CPU has packed keep their kernel, and are only given a way back."""
    with _one_at_a_time:
        if base.precision != "nf4":
            yield
            return
        from models.network.packed import differentiable_packed

        with differentiable_packed(base.network):
            yield


@torch.no_grad()
def answer_direction(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """∂v/∂hidden (B, d) fp32 of v = log p(likeliest token): that token's row less the mean of all rows under p.

    hidden (B, d); weight (V, d), the output embedding, read in slices, or a classification head's, with bias (V,).
    """
    hidden = hidden.float()
    slices = torch.split(weight, _VOCABULARY_SLICE)
    logits = torch.cat([hidden @ part.float().T for part in slices], dim=-1)
    if bias is not None:
        logits = logits + bias.float()
    shares = torch.split(logits.softmax(-1), _VOCABULARY_SLICE, dim=-1)
    mean = sum((share @ part.float() for share, part in zip(shares, slices, strict=True)), torch.zeros_like(hidden))
    return weight[logits.argmax(-1)].float() - mean
