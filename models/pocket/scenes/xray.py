"""Absorption pictures: Beer-Lambert through layers of material, in the colours of dual-energy scanners.

An object is a set of outlines in its own unit coordinates, each with a material and a thickness. Optical depths add up,
so overlapping objects darken each other multiplicatively and nothing hides what is behind it:
I = 255 * exp(-sum(mu * thickness)). Organic matter is orange, light metals green and steel blue, as on the screens of
baggage scanners: the false colours are imitated, not the physics.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from scanfleet.models.pocket.scenes.canvas import BILINEAR
from scanfleet.models.pocket.scenes.scene import Field, Mask, normal
from scanfleet.models.types import Box

Point = tuple[float, float]
# Absorption per unit thickness in (red, green, blue).
MATERIALS = {
    "organic": (0.22, 0.50, 1.00),
    "plastic": (0.18, 0.34, 0.62),
    "light": (0.85, 0.45, 0.80),
    "steel": (1.80, 1.10, 0.50),
}
FINE = 2  # outlines are drawn this many times larger, then averaged: soft edges


@dataclass(frozen=True, kw_only=True)
class Part:
    """One outline: a closed polygon in unit coordinates, or with `width` an open line of that width."""

    points: tuple[Point, ...]
    material: str
    thick: float
    width: float = 0.0
    hole: bool = False  # cuts this outline out of the parts before it of the same material


@dataclass(frozen=True, kw_only=True)
class Pose:
    """The place of an object: unit lengths become `scale` pixels, rotated by `turn` radians, mirrored if `mirror`."""

    x: float
    y: float
    scale: float
    turn: float
    mirror: bool = False

    def place(self, p: Point) -> Point:
        """Map a point from unit coordinates to pixels."""
        u = -p[0] if self.mirror else p[0]
        c, s = math.cos(self.turn), math.sin(self.turn)
        return (self.x + self.scale * (u * c - p[1] * s), self.y + self.scale * (u * s + p[1] * c))


class Depths:
    """The optical depth of every pixel, [height, width, 3] fp32, to which parts are added."""

    def __init__(self, w: int, h: int) -> None:
        self.depth: Field = np.zeros((h, w, 3), np.float32)

    def add(self, parts: list[Part], pose: Pose) -> tuple[Box | None, Mask | None]:
        """Add an object.

        Args:
            parts: its outlines.
            pose: in pixels of the picture.

        Returns:
            Its box in pixels, clipped to the picture, and its silhouette [height, width] uint8, 0 or 255; None and None
            if it lies outside.
        """
        h, w = self.depth.shape[:2]
        placed = [[pose.place(p) for p in part.points] for part in parts]
        reach = max(part.width for part in parts) * pose.scale / 2 + 1
        xs, ys = [p[0] for points in placed for p in points], [p[1] for points in placed for p in points]
        x0, x1 = max(0, int(min(xs) - reach)), min(w, int(max(xs) + reach) + 2)
        y0, y1 = max(0, int(min(ys) - reach)), min(h, int(max(ys) + reach) + 2)
        if x1 - x0 < 2 or y1 - y0 < 2:
            return None, None
        silhouette: Mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        for material in dict.fromkeys(part.material for part in parts):
            mine = [(p, q) for p, q in zip(parts, placed, strict=True) if p.material == material]
            plane = _plane(mine, (x0, y0, x1, y1), pose.scale)
            mu = np.array(MATERIALS[material], np.float32)
            self.depth[y0:y1, x0:x1] += (plane.astype(np.float32) / 64)[..., None] * mu
            np.maximum(silhouette, plane, out=silhouette)
        ys_on, xs_on = np.flatnonzero(silhouette.any(1)), np.flatnonzero(silhouette.any(0))
        if not len(ys_on):
            return None, None
        full: Mask = np.zeros((h, w), np.uint8)
        full[y0:y1, x0:x1] = (silhouette > 0) * np.uint8(255)
        box = Box(
            x0=x0 + int(xs_on[0]),
            y0=y0 + int(ys_on[0]),
            x1=x0 + int(xs_on[-1]) + 1,
            y1=y0 + int(ys_on[-1]) + 1,
            label="",
        )
        return box, full


def _plane(mine: list[tuple[Part, list[Point]]], window: tuple[int, int, int, int], scale: float) -> Mask:
    """Return the thickness of one material inside a window, 64 = unit thickness; parts add up to at most 255/64."""
    x0, y0, x1, y1 = window
    total: Field | None = None
    for part, points in mine:
        page = Image.new("L", ((x1 - x0) * FINE, (y1 - y0) * FINE))
        pen = ImageDraw.Draw(page)
        fine = [((x - x0) * FINE, (y - y0) * FINE) for x, y in points]
        value = 255 if part.hole else min(255, int(part.thick * 64))
        if part.width:
            pen.line(fine, fill=value, width=max(2, int(part.width * scale * FINE)), joint="curve")
        else:
            pen.polygon(fine, fill=value)
        drawn = np.asarray(page.reduce(FINE), np.float32)
        if total is None:
            total = drawn.copy() if not part.hole else np.zeros_like(drawn)
        elif part.hole:
            total *= 1 - drawn / 255
        else:
            total += drawn
    assert total is not None
    return np.minimum(total, 255).astype(np.uint8)


def expose(rng: random.Random, depths: Depths) -> Field:
    """Compute the share of the radiation that arrives, by Beer-Lambert and without noise.

    Args:
        rng: the picture's random source.
        depths: of all objects.

    Returns:
        [height, width, 3] fp32 in 0..1.
    """
    flat = 1.0 - 0.06 * rng.random()
    seen: Field = flat * np.exp(-depths.depth * np.float32(rng.uniform(0.85, 1.15)))
    return seen


def detect(rng: random.Random, seen: Field, *, blur: float = 0.0) -> Image.Image:
    """Add noise and a slight blur, as a detector does.

    Args:
        rng: the picture's random source.
        seen: [height, width, 3] fp32 in 0..1.
        blur: radius in pixels; up to 0.2: no blur.
    """
    h, w = seen.shape[:2]
    seen = seen + normal(rng, (h, w, 1)) * np.float32(rng.uniform(0.004, 0.02))
    image = Image.fromarray((np.clip(seen, 0, 1) * 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.2 else image


def develop(rng: random.Random, depths: Depths, *, blur: float = 0.0) -> Image.Image:
    """Expose the depths and detect the radiation that arrives."""
    return detect(rng, expose(rng, depths), blur=blur)


def fog(rng: random.Random, w: int, h: int) -> Field:
    """Return smooth organic clutter (clothes): optical depth per material unit, [h, w] fp32 in 0..1."""
    n = rng.choice((3, 4, 6))
    small = np.array([rng.random() for _ in range(n * n)], np.float32).reshape(n, n)
    return np.asarray(Image.fromarray(small).resize((w, h), BILINEAR), np.float32)


def oval(cx: float, cy: float, rx: float, ry: float, points: int = 20) -> tuple[Point, ...]:
    step = 2 * math.pi / points
    return tuple((cx + rx * math.cos(k * step), cy + ry * math.sin(k * step)) for k in range(points))


def rect(x0: float, y0: float, x1: float, y1: float) -> tuple[Point, ...]:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def rounded(x0: float, y0: float, x1: float, y1: float, r: float) -> tuple[Point, ...]:
    """Return a rectangle with cut corners, near enough to round ones at these sizes."""
    return (
        (x0 + r, y0), (x1 - r, y0), (x1 - r * 0.3, y0 + r * 0.3), (x1, y0 + r), (x1, y1 - r),
        (x1 - r * 0.3, y1 - r * 0.3), (x1 - r, y1), (x0 + r, y1), (x0 + r * 0.3, y1 - r * 0.3), (x0, y1 - r),
        (x0, y0 + r), (x0 + r * 0.3, y0 + r * 0.3),
    )  # fmt: skip


def ring(cx: float, cy: float, rx: float, ry: float) -> tuple[Point, ...]:
    """Return a closed line, for parts with a width."""
    loop = oval(cx, cy, rx, ry)
    return (*loop, loop[0])
