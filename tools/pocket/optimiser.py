"""Muon for the hidden matrices, AdamW for everything else.

Muon orthogonalises the momentum of a matrix by a Newton-Schulz iteration (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/); the step is scaled to AdamW's usual size as in Moonlight
(arXiv 2502.16982). In float32 and stacked by shape: torch's own version works in bfloat16, which is slow on a
CPU without bfloat16 units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonal(stack: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, of a stack (K, m, n)."""
    a, b, c = NEWTON_SCHULZ
    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For 2-D parameters only; `lr` is in AdamW's units."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[tuple(p.shape)].append(p)
            for shape, same in by_shape.items():
                self._update(group, shape, same)

    def _update(self, group: dict[str, float], shape: tuple[int, ...], same: list[Tensor]) -> None:
        momenta = []
        for p in same:
            assert p.grad is not None
            state = self.state[p]
            kept = state.setdefault("momentum", torch.zeros_like(p))
            kept.lerp_(p.grad, 1 - group["momentum"])
            momenta.append(p.grad.lerp(kept, group["momentum"]))  # Nesterov
        scale = 0.2 * max(shape) ** 0.5 * group["lr"]
        for p, way in zip(same, orthogonal(torch.stack(momenta)), strict=True):
            p.mul_(1 - group["lr"] * group["decay"]).add_(way, alpha=-scale)
