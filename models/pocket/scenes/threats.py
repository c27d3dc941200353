"""The four threats of the baggage family, each in several makes. Only the check's own data contains them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from scanfleet.models.pocket.scenes.xray import Part, Point, oval, rect, ring, rounded


def knife(rng: random.Random) -> list[Part]:
    """A handle and a tapering blade: kitchen, dagger or cleaver-like."""
    wide, split = rng.uniform(0.06, 0.11), rng.uniform(-0.18, -0.02)
    make = rng.randrange(3)
    if make == 0:  # straight back, bellied edge
        blade: tuple[Point, ...] = ((split, -wide), (0.4, -wide), (0.5, -wide * 0.6), (0.35, wide * 0.7), (split, wide))
    elif make == 1:  # dagger
        blade = ((split, -wide), (0.3, -wide * 0.8), (0.5, 0.0), (0.3, wide * 0.8), (split, wide))
    else:  # broad, nearly square end
        blade = (
            (split, -wide * 0.7),
            (0.5, -wide * 0.7),
            (0.48, wide * 1.2),
            (split + 0.05, wide * 1.4),
            (split, wide),
        )
    handle = rng.choice(("plastic", "organic", "steel"))
    parts = [
        Part(points=blade, material="steel", thick=rng.uniform(0.45, 0.9)),
        Part(points=rounded(-0.5, -0.055, split, 0.06, 0.03), material=handle, thick=0.9 if handle != "steel" else 0.5),
        Part(points=((-0.45, 0), (split, 0)), material="steel", thick=0.4, width=0.045),
    ]
    if rng.random() < 0.5:
        parts.append(Part(points=((split, -wide * 1.4), (split, wide * 1.4)), material="steel", thick=0.6, width=0.03))
    return parts


def gun(rng: random.Random) -> list[Part]:
    """A pistol or a revolver from the side."""
    metal = rng.uniform(0.7, 1.1)
    lean = rng.uniform(0.04, 0.16)
    grip = ((-0.42, -0.05), (-0.18, -0.05), (-0.2 - lean, 0.38), (-0.42 - lean, 0.36))
    parts = [
        Part(points=grip, material=rng.choice(("steel", "steel", "plastic")), thick=metal),
        Part(points=ring(-0.08, 0.06, 0.1, 0.085), material="steel", thick=metal * 0.7, width=0.03),
        Part(points=((-0.1, 0.0), (-0.11, 0.09)), material="steel", thick=0.6, width=0.025),
    ]
    if rng.random() < 0.65:
        parts.append(
            Part(points=rounded(-0.46, -0.22, rng.uniform(0.32, 0.5), -0.02, 0.02), material="steel", thick=metal)
        )
        parts.append(Part(points=((-0.2, -0.12), (0.32, -0.12)), material="steel", thick=0.4, width=0.05))
    else:
        parts.append(Part(points=((-0.4, -0.14), (0.5, -0.15)), material="steel", thick=metal, width=0.09))
        parts.append(Part(points=rounded(-0.2, -0.23, 0.08, 0.02, 0.04), material="steel", thick=metal))
        parts.append(Part(points=((-0.44, -0.16), (-0.5, -0.24)), material="steel", thick=metal, width=0.05))
    return parts


def scissors(rng: random.Random) -> list[Part]:
    """Two blades crossing at a pivot, and two finger rings."""
    opening = math.radians(rng.uniform(8, 32))
    grips = rng.choice(("plastic", "steel", "organic"))
    parts = []
    for sign in (-1, 1):
        c, s = math.cos(sign * opening), math.sin(sign * opening)

        def turned(x: float, y: float, c: float = c, s: float = s) -> Point:
            return (x * c - y * s, x * s + y * c)

        blade = (turned(-0.12, -0.035), turned(0.3, -0.03), turned(0.5, 0.0), turned(0.3, 0.02), turned(-0.12, 0.03))
        parts.append(Part(points=blade, material="steel", thick=rng.uniform(0.6, 0.9)))
        eye = turned(-0.33, 0.035 * sign)
        parts.append(
            Part(points=(turned(-0.1, 0), turned(-0.2, 0.01 * sign)), material="steel", thick=0.7, width=0.045)
        )
        parts.append(Part(points=ring(eye[0], eye[1], 0.14, 0.105), material=grips, thick=1.0, width=0.05))
    parts.append(Part(points=oval(0, 0, 0.035, 0.035, 8), material="steel", thick=0.6))
    return parts


def bottle(rng: random.Random) -> list[Part]:
    """Body, shoulders, neck and cap, with liquid up to a level."""
    wide, neck = rng.uniform(0.13, 0.19), rng.uniform(0.045, 0.065)
    shoulder, level = rng.uniform(0.12, 0.22), rng.uniform(-0.1, 0.12)
    wall = (
        (-0.5, -wide * 0.9), (-0.47, -wide), (shoulder, -wide), (0.34, -neck), (0.5, -neck),
        (0.5, neck), (0.34, neck), (shoulder, wide), (-0.47, wide), (-0.5, wide * 0.9),
    )  # fmt: skip
    inner = 0.86 * wide
    return [
        Part(points=wall, material="plastic", thick=rng.uniform(0.3, 0.6)),
        Part(points=(*wall, wall[0]), material="plastic", thick=0.7, width=0.025),
        Part(points=rect(-0.47, -inner, level, inner), material="organic", thick=rng.uniform(0.6, 1.0)),
        Part(points=oval((level - 0.47) / 2, 0, 0.25, inner * 0.6), material="organic", thick=0.3),
        Part(points=rect(0.42, -neck * 1.25, 0.52, neck * 1.25), material=rng.choice(("plastic", "light")), thick=0.9),
    ]


THREATS: dict[str, Callable[[random.Random], list[Part]]] = {
    "knife": knife, "gun": gun, "scissors": scissors, "bottle": bottle,
}  # fmt: skip
