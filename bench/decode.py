"""The cost of a decoder process: one image after the other, in this thread and in a child, side by side."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from bench.report import Report, median_seconds_side_by_side
from scanfleet.config.settings import load_settings
from scanfleet.decoding.pool import Decoders
from scanfleet.images import Decoded, Enough, decode

ENOUGH = Enough(pixels=4 * 448 * 448, short_side=1)  # of a check at 448 x 448 pixels
SIZES = (("128px", 128, 128, 400), ("448px", 448, 448, 100), ("12mp", 4000, 3000, 5))  # width, height, images a turn


def run() -> Report:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(data_dir=Path(folder))
        here = partial(decode, max_pixels=settings.max_image_pixels)
        decoders = Decoders(settings, n_children=1)
        try:
            figures: dict[str, float] = {}
            for name, width, height, n_images in SIZES:
                figures |= _compare(name, jpeg(width, height), n_images, here, decoders.decode)
            near = partial(here, enough=ENOUGH), partial(decoders.decode, enough=ENOUGH)
            figures |= _compare(f"{name}_near", jpeg(width, height), n_images, *near)
        finally:
            decoders.close()
    notes = (
        "JPEG, quality 90, one image after the other in one thread; milliseconds for one image",
        "near: decoded as far as a check at 448 x 448 pixels needs",
    )
    return Report(name="decode", figures=figures, notes=notes)


def _compare(
    name: str, data: bytes, n_images: int, here: Callable[[bytes], Decoded], child: Callable[[bytes], Decoded]
) -> dict[str, float]:
    if child(data).image.tobytes() != here(data).image.tobytes():
        raise AssertionError("a decoder process returned other pixels")
    in_thread, in_child = median_seconds_side_by_side(
        lambda: [here(data) for _ in range(n_images)], lambda: [child(data) for _ in range(n_images)]
    )
    return {
        f"{name}_thread_ms": 1000 * in_thread / n_images,
        f"{name}_child_ms": 1000 * in_child / n_images,
        f"{name}_child_vs_thread": in_child / in_thread,
    }


def jpeg(width: int, height: int, *, quality: int = 90) -> bytes:
    """Return smooth shapes with some grain: about as hard to decode as a photograph."""
    coarse = Image.effect_noise((max(2, width // 12), max(2, height // 12)), 90).resize((width, height))
    grain = Image.effect_noise((width, height), 20)
    image = Image.merge("RGB", [Image.blend(coarse, grain, share) for share in (0.1, 0.2, 0.3)])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
