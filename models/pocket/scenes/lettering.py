"""Put letters on pictures: flat on top, or on a surface of the scene."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw

from scanfleet.models.pocket.scenes.canvas import BICUBIC, Colour, colour, luma
from scanfleet.models.pocket.scenes.fonts import any_font

Point = tuple[float, float]


def text_mask(rng: random.Random, lines: list[str], size: int) -> Image.Image:
    """Return the letters of `lines` as an L mask, cropped to the ink (never empty)."""
    face = any_font(rng, size)
    boxes = [face.getbbox(line) for line in lines]
    widths = [int(b[2] - b[0]) + 2 for b in boxes]
    step = int(size * rng.uniform(1.05, 1.3))
    mask = Image.new("L", (max(widths) + 2, step * len(lines) + size // 2))
    pen, centred = ImageDraw.Draw(mask), rng.random() < 0.6
    for i, line in enumerate(lines):
        x = (mask.width - widths[i]) // 2 if centred else 1
        pen.text((x - boxes[i][0], i * step), line, font=face, fill=255)
    box = mask.getbbox()
    return mask.crop(box) if box else Image.new("L", (2, 2), 255)


def fitted(rng: random.Random, lines: list[str], size: int, w: int, h: int) -> Image.Image | None:
    """Return a text mask of at most w x h pixels at this size, or None if the words do not fit."""
    mask = text_mask(rng, lines, size)
    return mask if mask.width <= w and mask.height <= h else None


def ink(rng: random.Random, behind: Colour, contrast: float) -> Colour:
    """Return a colour whose brightness differs from the background's by at least `contrast` (0..255)."""
    for _ in range(8):
        c = rng.choice(((255, 255, 255), (0, 0, 0), colour(rng), colour(rng)))
        if abs(luma(c) - luma(behind)) >= contrast:
            return c
    return (0, 0, 0) if luma(behind) > 127 else (255, 255, 255)


def mean_colour(image: Image.Image, box: tuple[int, int, int, int]) -> Colour:
    r, g, b = image.crop(box).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
    return int(r), int(g), int(b)


def faded(mask: Image.Image, alpha: float) -> Image.Image:
    return mask.point([int(i * alpha) for i in range(256)]) if alpha < 1 else mask


def on_page(mask: Image.Image, size: tuple[int, int], at: tuple[int, int]) -> Image.Image:
    """Place the mask on an empty page of the picture's size."""
    page = Image.new("L", size)
    page.paste(mask, at)
    return page


def _coefficients(target: list[Point], w: float, h: float) -> list[float]:
    """Return Pillow's eight numbers of the projective map from the target quad back to the rectangle (0,0)-(w,h)."""
    source = [(0.0, 0.0), (w, 0.0), (w, h), (0.0, h)]
    rows, right = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
        right += [u, v]
    solved = np.linalg.solve(np.array(rows), np.array(right))
    return [float(value) for value in solved]


def warp(patch: Image.Image, target: list[Point], size: tuple[int, int]) -> Image.Image:
    """Draw `patch` inside the quad `target` (clockwise from top left) on an empty page of `size`."""
    numbers = _coefficients(target, patch.width, patch.height)
    return patch.transform(size, Image.Transform.PERSPECTIVE, numbers, BICUBIC)


def quad(rng: random.Random, centre: Point, w: float, h: float, degrees: float, keystone: float) -> list[Point]:
    """Return a w x h rectangle rotated by `degrees`, with one side shrunk by the factor 1 - keystone."""
    kx, ky = w / 2, h / 2
    squeeze = 1 - keystone
    corners = [(-kx, -ky), (kx, -ky), (kx, ky), (-kx, ky)]
    if rng.random() < 0.6:  # seen from the side: left or right edge is farther away
        far = rng.choice((-1, 1))
        corners = [(x * (1 - keystone / 2), y * (squeeze if x * far > 0 else 1)) for x, y in corners]
    else:  # seen from below or above
        far = rng.choice((-1, 1))
        corners = [(x * (squeeze if y * far > 0 else 1), y * (1 - keystone / 2)) for x, y in corners]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(centre[0] + x * c - y * s, centre[1] + x * s + y * c) for x, y in corners]
