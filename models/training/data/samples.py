"""From an example to the image that a forward reads: as it is, or a small object with its surroundings, enlarged.

Small things are lost where an image is shrunk to the pixel budget; a crop around them, scaled back up, shows the model
what it should have seen. Not for X-ray scans: what lies over each other there absorbs together.
"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from models.families import PreparedImage
from models.inputs.processing import VisionProcessor
from models.training.data.types import Example
from models.types import Box, Question

CROPS = 2  # different ones of each example with a small object
CONTEXT = (1.5, 3.0)  # side of a crop, in longest sides of the object


def n_crops(example: Example, size: tuple[int, int], below: float) -> int:
    """How many enlarged crops there are of an example whose image has this (width, height)."""
    return CROPS if _smallest(example, size, below) is not None else 0


def _smallest(example: Example, size: tuple[int, int], below: float) -> Box | None:
    small = [box for box in example.boxes if 0 < _area(box) < below * size[0] * size[1]]
    return min(small, key=_area, default=None)


def _area(box: Box) -> float:
    return max(0.0, box.x1 - box.x0) * max(0.0, box.y1 - box.y0)


def open_image(example: Example) -> Image.Image:
    """The whole image in RGB; raises what opening it raises."""
    with example.open(example.path) as image:
        return image.convert("RGB")


def enlarged(image: Image.Image, example: Example, variant: int, below: float) -> Image.Image:
    """The `variant`-th crop around the smallest object, scaled to the image's longest side; always the same one."""
    box = _smallest(example, image.size, below)
    assert box is not None
    seed = hashlib.sha256(f"{example.key}/{variant}".encode()).digest()
    rng = np.random.default_rng(list(seed))
    longest = max(box.x1 - box.x0, box.y1 - box.y0)
    side = min(max(longest * rng.uniform(*CONTEXT), 16.0), float(min(image.size)))
    side = max(side, longest)
    left = _start(rng, box.x0, box.x1, side, image.width)
    top = _start(rng, box.y0, box.y1, side, image.height)
    crop = image.crop((left, top, min(left + round(side), image.width), min(top + round(side), image.height)))
    scale = max(image.size) / max(crop.size)
    return crop.resize((round(crop.width * scale), round(crop.height * scale)), Image.Resampling.BICUBIC)


def _start(rng: np.random.Generator, low: float, high: float, side: float, length: int) -> int:
    """Where a stretch of `side` begins that holds low..high and lies within 0..length."""
    first, last = max(0.0, high - side), min(low, length - side)
    return round(rng.uniform(first, last)) if first < last else max(0, round(min(first, length - side)))


class Samples:
    """Draws of a list of examples, made ready for a forward at one pixel budget."""

    def __init__(
        self, examples: list[Example], processor: VisionProcessor, question: Question, *, factor: float, below: float
    ) -> None:
        self.examples = examples
        self._processor = processor
        self._below = below
        self.max_pixels = round(question.max_pixels * factor)
        self._min_pixels = question.min_pixels

    def name(self, draw: tuple[int, int]) -> str:
        """What tells this picture from every other: the example's key, its variant and the pixel budget."""
        variant = f"{draw[1]}/{self._below}" if draw[1] else "0"
        return f"{self.examples[draw[0]].key}/{variant}/{self._min_pixels}-{self.max_pixels}"

    def image(self, draw: tuple[int, int]) -> Image.Image:
        example = self.examples[draw[0]]
        image = open_image(example)
        return enlarged(image, example, draw[1], self._below) if draw[1] else image

    def prepared(self, draw: tuple[int, int]) -> PreparedImage:
        """Raises ImageUnsuitable for one that the model cannot take."""
        return self.prepare(self.image(draw))

    def prepare(self, image: Image.Image) -> PreparedImage:
        return self._processor.prepare(image, max_pixels=self.max_pixels, min_pixels=self._min_pixels)
