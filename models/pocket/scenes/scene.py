"""One generated picture with its truth, and the seeding rule that makes it repeatable."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanfleet.models.types import Box

Mask = NDArray[np.uint8]  # [height, width], 0..255
Field = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture with its truth and its making.

    Attributes:
        image: the picture.
        label: the right answer.
        text: the text in the picture.
        boxes: in pixels of `image`.
        style: names the variant.
        masks: where an attribute holds, [height, width] uint8 by attribute; for training only.
    """

    image: Image.Image
    label: str
    text: str = ""
    boxes: tuple[Box, ...] = ()
    style: str = ""
    masks: Mapping[str, Mask] = field(default_factory=dict)


def dice(seed: int, family: str, index: int) -> random.Random:
    """Return the random source of one image. String seeds hash with SHA-512, so it is the same on every machine."""
    return random.Random(f"scanfleet-pocket/{seed}/{family}/{index}")


def normal(rng: random.Random, shape: tuple[int, ...]) -> Field:
    """Sample standard normal noise from the image's random source.

    Args:
        rng: the image's random source.
        shape: of the result.

    Returns:
        [*shape] fp32.
    """
    return np.random.default_rng(rng.getrandbits(32)).standard_normal(shape, dtype=np.float32)


def mask_box(mask: Image.Image, label: str, threshold: int = 24) -> Box | None:
    """Return the tight box around the pixels of a mask above `threshold`, or None for an empty mask."""
    found = mask.point([0] * threshold + [255] * (256 - threshold)).getbbox()
    if found is None:
        return None
    return Box(x0=found[0], y0=found[1], x1=found[2], y1=found[3], label=label)


def stored(rng: random.Random, image: Image.Image, jpeg_share: float) -> tuple[bytes, str]:
    """Return an image file as in an archive, and its suffix: JPEG (quality 80 to 95) or PNG."""
    out = io.BytesIO()
    if rng.random() < jpeg_share:
        image.save(out, "JPEG", quality=rng.randint(80, 95))
        return out.getvalue(), ".jpg"
    image.save(out, "PNG", compress_level=1)
    return out.getvalue(), ".png"


def through_file(rng: random.Random, image: Image.Image, jpeg_share: float) -> Image.Image:
    """Return the picture after storing and decoding such a file."""
    data, suffix = stored(rng, image, jpeg_share)
    return image if suffix == ".png" else Image.open(io.BytesIO(data)).convert("RGB")
