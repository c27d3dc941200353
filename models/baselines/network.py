"""Training of a small network by the usual schedule: SGD, warm-up and a cosine, pictures cut and mirrored."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from scanfleet.models.baselines.fitted import Task
from scanfleet.models.baselines.held_out import Places

if TYPE_CHECKING:
    import torch

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as every ResNet was trained
WARM_UP = 0.05  # of all steps
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
MOST_GRADIENT = 0.1  # norm, as DETR was trained


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast. rate: of the steepest step. flip: mirror half of the pictures."""

    epochs: int
    batch: int
    rate: float
    flip: bool

    @classmethod
    def of(cls, task: Task, *, epochs: int, rate: float) -> Schedule:
        """Read the options `epochs`, `batch`, `lr` and `flip`, with these defaults."""
        return cls(
            epochs=task.positive("epochs", epochs),
            batch=task.positive("batch", 32),
            rate=task.option("lr", rate),
            flip=task.option("flip", True),
        )


def tensor_of(pictures: Sequence[Image.Image], side: int, *, scaled: bool = True) -> torch.Tensor:
    """Return `[pictures, 3, side, side]` pixels from 0 to 1; scaled: by mean and spread of ImageNet."""
    import torch

    small = [picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR) for picture in pictures]
    pixels = np.stack([np.asarray(one, dtype=np.float32) for one in small]) / 255
    pixels = (pixels - MEAN) / SPREAD if scaled else pixels
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous()


def varied(picture: Image.Image, dice: random.Random, *, flip: bool) -> Image.Image:
    """Return a part of the picture, of at least half its area and of about its shape, perhaps mirrored."""
    width, height = picture.size
    area, shape = dice.uniform(0.5, 1.0), math.exp(dice.uniform(-0.2, 0.2))
    across, down = min(1.0, math.sqrt(area * shape)) * width, min(1.0, math.sqrt(area / shape)) * height
    left, top = dice.uniform(0, width - across), dice.uniform(0, height - down)
    part = picture.crop((round(left), round(top), max(round(left + across), 1), max(round(top + down), 1)))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip and dice.random() < 0.5 else part


def train(
    model: torch.nn.Module,
    loss_of: Callable[[Places, random.Random], torch.Tensor],
    places: Places,
    plan: Schedule,
    *,
    seed: int,
    adaptive: bool = False,
) -> None:
    """Train in place. loss_of: of the pictures at these places, varied by these dice. Ends in evaluation mode.

    adaptive: by AdamW with clipped gradients, as detectors and transformers are; else by SGD with momentum.

    Batches differ by one picture at most, so that none is too small for batch normalisation.
    """
    import torch

    rng, dice = np.random.default_rng(seed), random.Random(seed)  # noqa: S311 - seeded variation, nothing secret
    n_batches = max(1, len(places) // plan.batch)
    n_steps = plan.epochs * n_batches
    weights = list(model.parameters())
    optimiser: torch.optim.Optimizer
    if adaptive:
        optimiser = torch.optim.AdamW(weights, plan.rate, weight_decay=WEIGHT_DECAY)
    else:
        optimiser = torch.optim.SGD(weights, plan.rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share_of_rate(step, n_steps))
    model.train()
    for _ in range(plan.epochs):
        for batch in np.array_split(rng.permutation(places), n_batches):
            optimiser.zero_grad()
            torch.autograd.backward(loss_of(batch, dice))
            if adaptive:
                torch.nn.utils.clip_grad_norm_(weights, MOST_GRADIENT)
            optimiser.step()
            rates.step()
    model.eval()


def _share_of_rate(step: int, n_steps: int) -> float:
    warm = max(1, round(WARM_UP * n_steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))
