"""Backgrounds: gradients, textures, object-like shapes, and crisp marks that are not text."""

from __future__ import annotations

import colorsys
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from scanfleet.models.pocket.scenes.scene import Field, normal

Colour = tuple[int, int, int]
BILINEAR = Image.Resampling.BILINEAR
BICUBIC = Image.Resampling.BICUBIC


def colour(rng: random.Random) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(rng.random(), rng.random() ** 1.5, 0.1 + 0.9 * rng.random())
    return int(r * 255), int(g * 255), int(b * 255)


def luma(c: Colour) -> float:
    return 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2]


def smooth(rng: random.Random, w: int, h: int, cells: int, low: int = 0, high: int = 255) -> Image.Image:
    """Return a grey field of `cells` x `cells` random values, enlarged smoothly: clouds, or uneven light."""
    small = np.array([rng.randint(low, high) for _ in range(cells * cells)], np.uint8).reshape(cells, cells)
    return Image.fromarray(small).resize((w, h), BICUBIC)


def _clouds(rng: random.Random, w: int, h: int) -> Image.Image:
    n = rng.choice((2, 3, 5, 9))
    small = np.array([colour(rng) for _ in range(n * n)], np.uint8).reshape(n, n, 3)
    return Image.fromarray(small).resize((w, h), BICUBIC)


def _gradient(rng: random.Random, w: int, h: int) -> Image.Image:
    stops = np.array([colour(rng) for _ in range(rng.choice((2, 3)))], np.uint8)
    strip = stops[:, None] if rng.random() < 0.6 else stops[None, :]
    return Image.fromarray(strip).resize((w, h), BICUBIC)


def _stripes(rng: random.Random, w: int, h: int) -> Image.Image:
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.04, 0.4) * w
    y, x = np.ogrid[0:h, 0:w]
    wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period) + rng.uniform(0, 6))
    if rng.random() < 0.5:
        wave = np.sign(wave)
    mix = ((wave + 1) * 127).astype(np.uint8)
    return Image.composite(
        Image.new("RGB", (w, h), colour(rng)), Image.new("RGB", (w, h), colour(rng)), Image.fromarray(mix)
    )


def _tiles(rng: random.Random, w: int, h: int) -> Image.Image:
    base = Image.new("RGB", (w, h), colour(rng))
    pen = ImageDraw.Draw(base)
    tw, th, line = rng.uniform(0.08, 0.3) * w, rng.uniform(0.06, 0.3) * w, colour(rng)
    shift = rng.choice((0.0, 0.5))
    for row in range(int(h / th) + 1):
        pen.line([(0, row * th), (w, row * th)], fill=line)
        for column in range(-1, int(w / tw) + 1):
            x = (column + shift * (row % 2)) * tw
            pen.line([(x, row * th), (x, (row + 1) * th)], fill=line)
    return base


def _view(rng: random.Random, w: int, h: int) -> Image.Image:
    """A horizon: something like sky above something like ground."""
    top, low = _gradient(rng, w, h), _clouds(rng, w, h)
    y = int(h * rng.uniform(0.3, 0.8))
    top.paste(low.crop((0, y, w, h)), (0, y))
    return top


def blob(rng: random.Random, cx: float, cy: float, r: float, points: int = 14) -> list[tuple[float, float]]:
    """Return a closed wobbly outline around (cx, cy)."""
    squash, wobble, phase = rng.uniform(0.5, 1.0), rng.uniform(0, 0.35), rng.uniform(0, 6)
    k = rng.choice((2, 3, 5))
    out = []
    for i in range(points):
        a = 2 * math.pi * i / points
        q = r * (1 + wobble * math.sin(k * a + phase))
        out.append((cx + q * math.cos(a), cy + q * squash * math.sin(a)))
    return out


def _things(rng: random.Random, image: Image.Image, count: int) -> None:
    """Draw solid object-like shapes, each with a lit and a dark side."""
    w, h = image.size
    pen = ImageDraw.Draw(image)
    for _ in range(count):
        r = rng.uniform(0.06, 0.3) * min(w, h)
        cx, cy = rng.uniform(0, w), rng.uniform(0, h)
        c = colour(rng)
        dark = (c[0] // 2, c[1] // 2, c[2] // 2)
        kind = rng.randrange(4)
        if kind == 0:
            pen.polygon(blob(rng, cx + r * 0.1, cy + r * 0.1, r), fill=dark)
            pen.polygon(blob(rng, cx, cy, r * 0.95), fill=c)
        elif kind == 1:
            pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=dark)
            pen.ellipse((cx - r, cy - r, cx + r * 0.7, cy + r * 0.7), fill=c)
        elif kind == 2:
            pen.rectangle((cx - r, cy - r * 0.6, cx + r, cy + r * 0.8), fill=c)
            side = [
                (cx + r, cy - r * 0.6),
                (cx + r * 1.4, cy - r * 0.9),
                (cx + r * 1.4, cy + r * 0.5),
                (cx + r, cy + r * 0.8),
            ]
            pen.polygon(side, fill=dark)
        else:
            pen.rounded_rectangle((cx - r * 0.4, cy - r, cx + r * 0.4, cy + r), r * 0.3, fill=c, outline=dark)


BASES = (_clouds, _clouds, _gradient, _gradient, _stripes, _tiles, _view, _view)


def background(rng: random.Random, w: int, h: int) -> Image.Image:
    """Return a scene without any text, blurred slightly like a photograph."""
    image = rng.choice(BASES)(rng, w, h)
    if rng.random() < 0.75:
        _things(rng, image, rng.randint(1, 6))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6) * w / 160))
    return image


def marks(rng: random.Random, image: Image.Image, count: int) -> None:
    """Draw crisp marks that are not text: lines, empty boxes and bands, logos, bar patterns, dots."""
    w, h = image.size
    pen, s = ImageDraw.Draw(image), min(w, h)
    for _ in range(count):
        x, y, c, r = rng.uniform(0, w), rng.uniform(0, h), colour(rng), rng.uniform(0.04, 0.22) * s
        kind = rng.randrange(7)
        width = max(1, int(s * rng.uniform(0.004, 0.03)))
        if kind == 0:
            pen.line([(x, y), (rng.uniform(0, w), rng.uniform(0, h))], fill=c, width=width)
        elif kind == 1:
            pen.rectangle(
                (x - r, y - r * 0.4, x + r, y + r * 0.4), fill=c if rng.random() < 0.5 else None, outline=c, width=width
            )
        elif kind == 2:
            pen.rectangle((0, y, w, y + r), fill=c)
        elif kind == 3:
            pen.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), outline=c, width=width + 1)
            pen.polygon([(x, y - r / 3), (x - r / 3, y + r / 4), (x + r / 3, y + r / 4)], fill=colour(rng))
        elif kind == 4:
            for k in range(rng.randint(3, 6)):
                pen.line([(x, y + 3 * k * width), (x + r * 2, y + 3 * k * width)], fill=c, width=width)
        elif kind == 5:
            for k in range(rng.randint(3, 6)):
                pen.ellipse((x + 4 * k * width, y, x + (4 * k + 3) * width, y + 3 * width), fill=c)
        else:
            points = []
            for k in range(10):
                a, q = math.pi * k / 5, r * (0.5 if k % 2 else 1.0)
                points.append((x + q * math.sin(a), y - q * math.cos(a)))
            pen.polygon(points, fill=c)


def light(rng: random.Random, image: Image.Image, low: float = 0.5) -> Image.Image:
    """Multiply by a smooth uneven light whose darkest value is about `low`."""
    w, h = image.size
    shade = smooth(rng, w, h, rng.choice((2, 3)), int(low * 255), 255)
    lit = np.asarray(image, np.uint16) * np.asarray(shade, np.uint16)[..., None]
    return Image.fromarray((lit >> 8).astype(np.uint8))


def grain(rng: random.Random, image: Image.Image, sigma: float) -> Image.Image:
    """Add sensor noise: grey or per channel."""
    w, h = image.size
    noise: Field = normal(rng, (h, w, 1 if rng.random() < 0.5 else 3)) * np.float32(sigma)
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))
