"""Large photographs with a small target in them: a line of text or a threat, at a known share of the short side."""

import io
import random

import numpy as np
from PIL import Image

from scanfleet.models.pocket.scenes import CHECKS

SIZES = ((1500, 1125), (2001, 1499), (3000, 2250), (4000, 3000), (1501, 2003), (2560, 1440))
SHARES = (0.06, 0.12, 0.25, 0.5)  # of the short side, along the target's longer one
QUALITIES = (75, 85, 92)
SUBSAMPLINGS = (2, 0, 1)  # 4:2:0, 4:4:4, 4:2:2
GRAIN = 6.0  # standard deviation, in levels of 255
MARGIN = 10  # pixels around a target that are included


def planted(check: str, number: int) -> bytes:
    """The JPEG of this number, the same everywhere."""
    luck = random.Random(number)
    width, height = SIZES[number % len(SIZES)]
    picture = _grainy(_without(check, number).resize((width, height), Image.Resampling.BICUBIC), number)
    target = _target(check, number)
    scale = min(width, height) * SHARES[number % len(SHARES)] / max(target.size)
    size = (max(8, round(target.width * scale)), max(8, round(target.height * scale)))
    at = (luck.randint(0, width - size[0]), luck.randint(0, height - size[1]))
    picture.paste(target.resize(size, Image.Resampling.BICUBIC), at)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=luck.choice(QUALITIES), subsampling=luck.choice(SUBSAMPLINGS))
    return buffer.getvalue()


def _without(check: str, number: int) -> Image.Image:
    """A generated picture with no target in it."""
    scenes = (CHECKS[check].draw(7, 1000 + 50 * number + n, 448, 336) for n in range(50))
    return next(scene.image for scene in scenes if not scene.boxes)


def _target(check: str, number: int) -> Image.Image:
    scenes = (CHECKS[check].draw(9, 5000 + 50 * number + n, 448, 448) for n in range(50))
    scene = next(scene for scene in scenes if scene.boxes)
    box = scene.boxes[0]
    left, top, right, bottom = box.x0 - MARGIN, box.y0 - MARGIN, box.x1 + MARGIN, box.y1 + MARGIN
    return scene.image.crop((max(0, int(left)), max(0, int(top)), min(448, int(right)), min(448, int(bottom))))


def _grainy(image: Image.Image, seed: int) -> Image.Image:
    grain = np.random.default_rng(seed).normal(0, GRAIN, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
