"""Generated pictures for measurements: the same on every machine, never stored, decoded like photographs."""

from __future__ import annotations

import io
import random

from PIL import Image

GRAIN = 0.2  # share of the picture: without it a JPEG decodes far faster than a photograph


def picture(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Return smooth coloured shapes under some grain, RGB."""
    coarse = _noise(max(2, width // 24), max(2, height // 24), seed).resize((width, height), Image.Resampling.BICUBIC)
    return Image.blend(coarse, _noise(width, height, seed + 1), GRAIN)


def jpeg(width: int, height: int, *, seed: int = 0) -> bytes:
    """Return the same picture as a JPEG file of quality 90."""
    buffer = io.BytesIO()
    picture(width, height, seed=seed).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _noise(width: int, height: int, seed: int) -> Image.Image:
    # Not Image.effect_noise: it cannot be seeded.
    return Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(3 * width * height))  # noqa: S311
