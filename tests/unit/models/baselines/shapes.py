"""An easy set for detectors: a red square, a blue square or nothing, at any place on dark noise, with its box."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from scanfleet.models.types import Box

COLOURS = {"red": (240, 40, 40), "blue": (40, 60, 240)}
NAMES = ("red", "blue", "none")


def shapes(n: int, *, seed: int, side: int = 64) -> tuple[list[Image.Image], list[str], list[list[Box]]]:
    """Return `n` pictures with their labels, each label equally often, and boxes."""
    rng = np.random.default_rng(seed)
    pictures, labels, boxes = [], [NAMES[number % 3] for number in range(n)], []
    for label in labels:
        picture = Image.fromarray(rng.integers(0, 80, (side, side, 3), dtype=np.uint8))
        found = []
        if label != "none":
            size = int(rng.integers(side // 4, side // 2))
            x, y = (int(place) for place in rng.integers(0, side - size, 2))
            ImageDraw.Draw(picture).rectangle((x, y, x + size, y + size), fill=COLOURS[label])
            found.append(Box(x0=x, y0=y, x1=x + size, y1=y + size, label=label))
        pictures.append(picture)
        boxes.append(found)
    return pictures, labels, boxes
