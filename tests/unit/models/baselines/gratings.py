"""An easy set: stripes that run across, up or at a slant, under noise, of any phase, width and size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

DIRECTIONS = {"across": 0.0, "up": 90.0, "slanted": 45.0}  # degrees
NAMES = tuple(DIRECTIONS)


def gratings(n: int, *, seed: int, side: int = 48) -> tuple[list[Image.Image], list[str]]:
    """Return `n` pictures with their labels, each label equally often."""
    rng = np.random.default_rng(seed)
    labels = [NAMES[index % len(NAMES)] for index in range(n)]
    return [_grating(rng, DIRECTIONS[label], side) for label in labels], labels


def _grating(rng: np.random.Generator, degrees: float, side: int) -> Image.Image:
    width, height = rng.integers(side, 2 * side, 2)
    y, x = np.mgrid[:height, :width] / side
    angle = np.radians(degrees)
    waves = np.sin(2 * np.pi * (rng.uniform(3, 5) * (x * np.sin(angle) + y * np.cos(angle)) + rng.uniform()))
    noisy = 128 + 50 * waves + rng.normal(0, 25, waves.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert("RGB")


def accuracy(log_odds: np.ndarray, labels: Sequence[str]) -> float:
    """Return the share of rows whose likeliest class is the label."""
    return float(np.mean([NAMES[best] == label for best, label in zip(log_odds.argmax(axis=1), labels, strict=True)]))
