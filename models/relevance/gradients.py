"""Shared by gradient maps: gradients through a network that keeps serving, and the gradient at the answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel

_VOCABULARY_SLICE = 16_384  # head rows turned to fp32 at a time
_one_at_a_time = threading.Lock()


@contextmanager
def differentiable(base: BaseModel) -> Iterator[None]:
    """Let the base carry gradients inside the block, in one thread at a time.

    Other threads keep scoring with the base and get the same numbers. 4-bit layers packed for a CPU keep their kernel
    and only get a backward pass.
    """
    with _one_at_a_time:
        if base.precision != "nf4":
            yield
            return
        from scanfleet.models.network.cpu.packed import differentiable_packed

        with differentiable_packed(base.network):
            yield


@torch.no_grad()
def answer_direction(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute ∂v/∂hidden of v = log p(likeliest token): that token's row minus the mean of all rows under p.

    Args:
        hidden: [batch, features].
        weight: [vocabulary, features], the output embedding, read in slices, or the classes of a head.
        bias: [vocabulary] of a head; None: no bias.

    Returns:
        [batch, features] fp32.
    """
    hidden = hidden.float()
    slices = torch.split(weight, _VOCABULARY_SLICE)
    logits = torch.cat([hidden @ part.float().T for part in slices], dim=-1)
    if bias is not None:
        logits = logits + bias.float()
    shares = torch.split(logits.softmax(-1), _VOCABULARY_SLICE, dim=-1)
    mean = sum((share @ part.float() for share, part in zip(shares, slices, strict=True)), torch.zeros_like(hidden))
    return weight[logits.argmax(-1)].float() - mean
