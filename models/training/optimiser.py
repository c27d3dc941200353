"""AdamW with warm-up and cosine, whose steps are taken in fp32 whatever the dtype of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.recipes import Recipe


def rate(step: int, steps: int, *, lr: float, warm_up: float) -> float:
    """Return the learning rate of a step: a linear rise over a share of the steps, then half a cosine down to 0.

    Args:
        step: Number of the step, from 0.
        steps: Steps in all.
        lr: The highest rate.
        warm_up: Share of the steps, in [0, 1).
    """
    first = max(1, math.ceil(warm_up * steps))
    if step < first:
        return lr * (step + 1) / first
    return lr * (1 + math.cos(math.pi * (step - first) / max(1, steps - first))) / 2


class Optimiser:
    """AdamW over parameters of any floating type; 16-bit ones have a copy in fp32, or small steps would be lost.

    Args:
        parameters: The trained tensors.
        recipe: Rate, weight decay, warm-up and gradient norm.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], recipe: Recipe) -> None:
        self._parameters = list(parameters)
        self._masters = [parameter.detach().float().requires_grad_() for parameter in parameters]
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if parameter.dtype == torch.float32:
                master.data = parameter.data
        self._recipe = recipe
        self._adam = torch.optim.AdamW(self._masters, lr=recipe.lr, weight_decay=recipe.weight_decay)

    def step(self, number: int, steps: int) -> None:
        """Clip the gradients on the parameters, take a step and clear them.

        Args:
            number: Number of the step, from 0.
            steps: Steps in all.

        Raises:
            ModelInvalid: A parameter has no gradient: it would be written to the adapter untrained.
        """
        idle = sum(parameter.grad is None for parameter in self._parameters)
        if idle:
            raise ModelInvalid(f"{idle} of the trained tensors do not affect the answer; train other modules")
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            assert parameter.grad is not None
            master.grad = parameter.grad.float()
        torch.nn.utils.clip_grad_norm_(self._masters, self._recipe.clip)
        self._adam.param_groups[0]["lr"] = rate(number, steps, lr=self._recipe.lr, warm_up=self._recipe.warm_up)
        self._adam.step()
        with torch.no_grad():
            for parameter, master in zip(self._parameters, self._masters, strict=True):
                parameter.grad = None
                if parameter.dtype != torch.float32:
                    parameter.copy_(master)

    def state(self) -> dict[str, Any]:
        """Return the moments and the fp32 copies, for a checkpoint."""
        masters = [master.detach() for master in self._masters]
        return {"adam": self._adam.state_dict(), "masters": masters}

    def load(self, state: dict[str, Any]) -> None:
        """Resume from a state; the parameters take its values."""
        self._adam.load_state_dict(state["adam"])
        with torch.no_grad():
            for parameter, master, value in zip(self._parameters, self._masters, state["masters"], strict=True):
                master.copy_(value)
                if parameter.dtype != torch.float32:
                    parameter.copy_(master)
