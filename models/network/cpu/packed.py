"""Gradients through 4-bit layers whose weights bitsandbytes has packed for a CPU.

Its kernel for packed weights (0.50, on CPUs with AVX-512 BF16) has no derivative: layers below would get no gradient,
and torch only warns. The forward here is the same kernel. The backward pass multiplies with the weights that the kernel
returns for the unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def differentiable_packed(network: Any) -> Iterator[None]:
    """Let packed layers of a network carry gradients inside the block."""
    packed = [module for module in network.modules() if _is_packed(module)]
    for layer in packed:
        layer.forward = partial(_apply, layer.forward, layer.in_features)
    try:
        yield
    finally:
        for layer in packed:
            del layer.forward  # uncovers the class's own


def _is_packed(module: Any) -> bool:
    weight = module._parameters.get("weight")
    state = None if weight is None else vars(weight).get("quant_state")
    return state is not None and bool(vars(state).get("packing_format_for_cpu"))


def _apply(forward: Callable[[torch.Tensor], torch.Tensor], width: int, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = _Linear.apply(x, forward, width)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor], width: int) -> torch.Tensor:
        """Map x [..., width] to [..., out]."""
        ctx.linear, ctx.width = forward, width
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = grads
        units = torch.eye(ctx.width + 1, ctx.width, dtype=torch.bfloat16)  # the last row is zero and gives the bias
        rows = ctx.linear(units).float()
        weight = rows[:-1] - rows[-1]  # [width, out]
        return (grad.float() @ weight.T).to(grad.dtype), None, None
