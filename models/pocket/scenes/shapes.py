"""Plain shapes and outlines for training the base model: flat ones, and ones of a material for absorption pictures."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from scanfleet.models.pocket.scenes.xray import MATERIALS, Part, Point, oval, rect, ring

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
OUTLINES = ("wedge", "elbow", "crossing", "loops", "flask", "bar", "disc")


def _outline(kind: str, x: float, y: float, r: float) -> list[Point]:
    if kind == "square":
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    if kind == "triangle":
        return [(x, y - r), (x + r, y + r * 0.8), (x - r, y + r * 0.8)]
    if kind == "cross":
        q = r * 0.35
        return [
            (x - q, y - r), (x + q, y - r), (x + q, y - q), (x + r, y - q), (x + r, y + q), (x + q, y + q),
            (x + q, y + r), (x - q, y + r), (x - q, y + q), (x - r, y + q), (x - r, y - q), (x - q, y - q),
        ]  # fmt: skip
    steps = [(math.pi * k / 5, r * (0.45 if k % 2 else 1.1)) for k in range(10)]
    return [(x + q * math.sin(a), y - q * math.cos(a)) for a, q in steps]


def draw_shape(kind: str, size: tuple[int, int], x: float, y: float, r: float) -> Image.Image:
    """Return the mask of a shape of radius r pixels around (x, y), on a page of `size`."""
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    if kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif kind == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=255, width=max(2, int(r * 0.3)))
    else:
        pen.polygon(_outline(kind, x, y, r), fill=255)
    return mask


def _elbow(rng: random.Random, material: str, thick: float) -> list[Part]:
    bend, width = math.radians(rng.uniform(60, 120)), rng.uniform(0.1, 0.2)
    tip = (-0.35 + rng.uniform(0.3, 0.5) * math.cos(bend), rng.uniform(0.3, 0.5) * math.sin(bend))
    return [Part(points=((0.45, 0.0), (-0.35, 0.0), tip), material=material, thick=thick, width=width)]


def outline_parts(rng: random.Random, kind: str) -> tuple[list[Part], str]:
    """Return a plain outline of random proportions in a random material, about one unit long."""
    material, thick = rng.choice(tuple(MATERIALS)), rng.uniform(0.4, 1.0)
    if kind == "wedge":
        a, b = rng.uniform(0.06, 0.14), rng.uniform(-0.05, 0.05)
        return [Part(points=((-0.45, -a), (0.5, b), (-0.45, a)), material=material, thick=thick)], material
    if kind == "elbow":
        return _elbow(rng, material, thick), material
    if kind == "crossing":
        t, width = rng.uniform(0.2, 0.8), rng.uniform(0.03, 0.1)
        lines = [
            ((-0.5 * math.cos(t), s * 0.5 * math.sin(t)), (0.5 * math.cos(t), -s * 0.5 * math.sin(t))) for s in (-1, 1)
        ]
        return [Part(points=line, material=material, thick=thick, width=width) for line in lines], material
    if kind == "loops":
        r, gap = rng.uniform(0.1, 0.2), rng.uniform(0.0, 0.15)
        eyes = [ring(s * (r + gap), 0, r, r * rng.uniform(0.6, 1)) for s in (-1, 1)]
        return [Part(points=eye, material=material, thick=thick, width=0.05) for eye in eyes], material
    if kind == "flask":
        r, neck = rng.uniform(0.14, 0.28), rng.uniform(0.04, 0.08)
        return [
            Part(points=oval(-0.5 + r * 1.2, 0, r * 1.2, r), material=material, thick=thick),
            Part(points=rect(-0.3, -neck, 0.4, neck), material=material, thick=thick * 0.7),
        ], material
    if kind == "bar":
        a = rng.uniform(0.03, 0.14)
        return [Part(points=rect(-0.5, -a, 0.5, a), material=material, thick=thick)], material
    r = rng.uniform(0.15, 0.35)
    return [Part(points=oval(0, 0, r, r * rng.uniform(0.7, 1)), material=material, thick=thick)], material
