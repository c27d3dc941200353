"""Encode an image for a server: resized within the pixel budget, as a data URL."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

JPEG_QUALITY = 95
MIN_PIXELS = 64 * 64  # the server enlarges further, as its checkpoint asks


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """An image ready to send.

    Attributes:
        data_url: the encoded image.
        visual_tokens: an estimate by the grid; only the server knows the exact number.
    """

    data_url: str = field(repr=False)
    visual_tokens: int


@dataclass(frozen=True, kw_only=True)
class ImageEncoding:
    """The form in which images are sent; scores depend on it.

    Attributes:
        image_format: "png" or "jpeg".
        grid: pixels; the sides are multiples of it. A server that resizes to the same grid leaves such an image
            unchanged: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL. 1: the sides stay as the budget leaves them.
    """

    image_format: Literal["png", "jpeg"] = "png"
    grid: int = 32

    @property
    def identity_part(self) -> str:
        """The encoding's part of a scorer's identity."""
        return f"{self.image_format}-{self.grid}px"

    def encode(self, image: Image.Image, *, max_pixels: int, min_pixels: int | None) -> EncodedImage:
        """Resize and encode an image. Equal pixels give equal bytes.

        Args:
            image: in any mode and size.
            max_pixels: upper bound after resizing.
            min_pixels: lower bound after resizing; None: MIN_PIXELS.
        """
        least = min(MIN_PIXELS if min_pixels is None else min_pixels, max_pixels)
        size = fit(image.size, max_pixels=max_pixels, min_pixels=least, grid=self.grid)
        rgb = image.convert("RGB")
        resized = rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        if self.image_format == "png":
            resized.save(buffer, "PNG", compress_level=1)  # the default level takes twice as long
        else:
            resized.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        data = base64.b64encode(buffer.getvalue()).decode()
        tokens = max(1, size[0] * size[1] // max(28, self.grid) ** 2)
        return EncodedImage(data_url=f"data:image/{self.image_format};base64,{data}", visual_tokens=tokens)


def fit(size: tuple[int, int], *, max_pixels: int, min_pixels: int, grid: int) -> tuple[int, int]:
    """Return the (width, height) of an image within the pixel budget.

    Each side is rounded to the grid, or scaled down (up) first and then rounded down (up). This is the rule of the
    Qwen-VL image processors, so theirs do not resize the image again.

    >>> fit((900, 700), max_pixels=200704, min_pixels=4096, grid=32)
    (480, 384)

    Args:
        size: (width, height) in pixels.
        max_pixels: upper bound of the result.
        min_pixels: lower bound of the result.
        grid: pixels; both sides are multiples of it.
    """
    width, height = (max(grid, round(side / grid) * grid) for side in size)
    if min_pixels <= width * height <= max_pixels:
        return width, height
    if width * height > max_pixels:
        shrink = math.sqrt(size[0] * size[1] / max_pixels)  # a division, as in theirs: the last bit may decide
        width, height = (max(grid, math.floor(side / shrink / grid) * grid) for side in size)
    else:
        grow = math.sqrt(min_pixels / (size[0] * size[1]))
        width, height = (math.ceil(side * grow / grid) * grid for side in size)
    return width, height
