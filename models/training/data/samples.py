"""From an example to the image that a forward reads.

The whole image, or a small object with its surroundings, enlarged.

Small objects are lost when an image is shrunk to the pixel budget; an enlarged crop shows them to the model. Not for
X-ray scans, where overlapping objects absorb together.
"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from scanfleet.models.families import PreparedImage
from scanfleet.models.inputs.processing import VisionProcessor
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Box, Question

CROPS = 2  # for each example with a small object
CONTEXT = (1.5, 3.0)  # side of a crop, in multiples of the object's longest side


def n_crops(example: Example, size: tuple[int, int], below: float) -> int:
    """Return the number of enlarged crops of an example.

    Args:
        example: An example with boxes.
        size: (width, height) of its image in pixels.
        below: Share of the image's area below which a box is small.
    """
    return CROPS if _smallest(example, size, below) is not None else 0


def _smallest(example: Example, size: tuple[int, int], below: float) -> Box | None:
    small = [box for box in example.boxes if 0 < _area(box) < below * size[0] * size[1]]
    return min(small, key=_area, default=None)


def _area(box: Box) -> float:
    return max(0.0, box.x1 - box.x0) * max(0.0, box.y1 - box.y0)


def open_image(example: Example) -> Image.Image:
    """Return the whole image in RGB.

    Raises:
        Exception: Whatever opening it raises.
    """
    with example.open(example.path) as image:
        return image.convert("RGB")


def enlarged(image: Image.Image, example: Example, variant: int, below: float) -> Image.Image:
    """Return a crop around the smallest object, enlarged to the image's longest side.

    Args:
        image: The example's image in RGB.
        example: An example for which `n_crops` is not 0.
        variant: Number of the crop, from 1; the same number gives the same crop.
        below: Share of the image's area below which a box is small.
    """
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
    """Return where a stretch of `side` begins that covers low..high and lies within 0..length."""
    first, last = max(0.0, high - side), min(low, length - side)
    return round(rng.uniform(first, last)) if first < last else max(0, round(min(first, length - side)))


class Samples:
    """Images of examples, prepared for a forward at one pixel budget.

    Args:
        examples: The examples, by whose index images are named.
        processor: Prepares images.
        question: Its pixel budget.
        factor: Times that budget.
        below: Share of the image's area below which a box is small.
    """

    def __init__(
        self, examples: list[Example], processor: VisionProcessor, question: Question, *, factor: float, below: float
    ) -> None:
        self.examples = examples
        self._processor = processor
        self._below = below
        self.max_pixels = round(question.max_pixels * factor)
        self._min_pixels = question.min_pixels

    def name(self, sample_id: tuple[int, int]) -> str:
        """Return the unique name of a picture: the example's key, its variant and the pixel budget."""
        variant = f"{sample_id[1]}/{self._below}" if sample_id[1] else "0"
        return f"{self.examples[sample_id[0]].key}/{variant}/{self._min_pixels}-{self.max_pixels}"

    def image(self, sample_id: tuple[int, int]) -> Image.Image:
        """Return an image or a crop in RGB.

        Raises:
            Exception: Whatever opening it raises.
        """
        example = self.examples[sample_id[0]]
        image = open_image(example)
        return enlarged(image, example, sample_id[1], self._below) if sample_id[1] else image

    def prepared(self, sample_id: tuple[int, int]) -> PreparedImage:
        """Return an image or a crop, prepared for a forward.

        Raises:
            ImageUnsuitable: The model cannot take this image.
            Exception: Whatever opening it raises.
        """
        return self.prepare(self.image(sample_id))

    def prepare(self, image: Image.Image) -> PreparedImage:
        """Prepare an image at the pixel budget of these samples.

        Raises:
            ImageUnsuitable: The model cannot take this image.
        """
        return self._processor.prepare(image, max_pixels=self.max_pixels, min_pixels=self._min_pixels)
