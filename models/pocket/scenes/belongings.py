"""Everyday objects in bags. Every function returns the parts of one object, about one unit long."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from scanfleet.models.pocket.scenes.xray import Part, Point, oval, rect, ring, rounded


def laptop(rng: random.Random) -> list[Part]:
    parts = [
        Part(points=rounded(-0.5, -0.35, 0.5, 0.35, 0.04), material="plastic", thick=0.5),
        Part(points=rect(-0.45, -0.3, 0.45, -0.1), material="light", thick=0.25),
        Part(points=rect(-0.2, -0.28, 0.1, -0.14), material="steel", thick=0.3),
        Part(points=((-0.5, -0.35), (0.5, -0.35)), material="steel", thick=0.5, width=0.03),
    ]
    cells = rng.randint(3, 6)
    for k in range(cells):
        x = -0.42 + k * 0.84 / cells
        parts.append(Part(points=rect(x, 0.12, x + 0.7 / cells, 0.28), material="light", thick=0.4))
    return parts


def shoe(rng: random.Random) -> list[Part]:
    sole: tuple[Point, ...] = (
        (-0.5, 0.02), (-0.46, -0.12), (-0.25, -0.15), (0.0, -0.1), (0.25, -0.18), (0.45, -0.12), (0.5, 0.02),
        (0.42, 0.15), (0.2, 0.19), (0.0, 0.12), (-0.25, 0.14), (-0.45, 0.1),
    )  # fmt: skip
    return [
        Part(points=sole, material="organic", thick=rng.uniform(0.4, 0.7)),
        Part(points=oval(-0.32, 0, 0.16, 0.11), material="organic", thick=0.35),
        Part(points=((-0.2, 0), (0.12, 0.01)), material="steel", thick=0.4, width=0.05),
    ]


def keys(rng: random.Random) -> list[Part]:
    parts = [Part(points=ring(0, 0, 0.12, 0.12), material="steel", thick=0.8, width=0.035)]
    for _ in range(rng.randint(2, 4)):
        a, n = rng.uniform(0, 2 * math.pi), rng.uniform(0.28, 0.42)
        c, s = math.cos(a), math.sin(a)
        tip, bow = ((0.12 + n) * c, (0.12 + n) * s), (0.17 * c, 0.17 * s)
        parts.append(Part(points=oval(bow[0], bow[1], 0.08, 0.08, 10), material="steel", thick=0.6))
        parts.append(Part(points=(bow, tip), material="steel", thick=0.6, width=0.05))
    return parts


def umbrella(_rng: random.Random) -> list[Part]:
    parts = [
        Part(points=((-0.5, 0), (0.42, 0)), material="steel", thick=0.8, width=0.03),
        Part(points=((0.42, 0), (0.5, 0.03), (0.5, 0.1), (0.44, 0.12)), material="plastic", thick=1.2, width=0.05),
        Part(points=((-0.5, 0), (0.1, 0.09), (0.3, 0.0), (0.1, -0.09)), material="organic", thick=0.25),
    ]
    for k in (-2, -1, 1, 2):
        parts.append(Part(points=((-0.42, 0), (0.15, 0.04 * k)), material="steel", thick=0.3, width=0.012))
    return parts


def cable(rng: random.Random) -> list[Part]:
    turns, squash = rng.randint(1, 3), rng.uniform(0.5, 1.0)
    loop = []
    for k in range(turns * 14):
        a, q = 2 * math.pi * k / 14, 0.22 + 0.04 * math.sin(k * 0.7) + 0.01 * k / 14
        loop.append((q * math.cos(a), q * squash * math.sin(a)))
    loop.append((0.5, rng.uniform(-0.3, 0.3)))
    return [
        Part(points=tuple(loop), material="light", thick=0.5, width=0.03),
        Part(points=oval(*loop[-1], 0.05, 0.03, 8), material="steel", thick=0.6),
    ]


def can(_rng: random.Random) -> list[Part]:
    return [
        Part(points=rounded(-0.32, -0.2, 0.32, 0.2, 0.05), material="light", thick=0.35),
        Part(points=rect(-0.26, -0.18, 0.28, 0.18), material="organic", thick=0.5),
        Part(points=((-0.31, -0.17), (-0.31, 0.17)), material="light", thick=0.6, width=0.03),
        Part(points=((0.31, -0.17), (0.31, 0.17)), material="light", thick=0.6, width=0.03),
    ]


def book(rng: random.Random) -> list[Part]:
    return [
        Part(points=rect(-0.4, -0.28, 0.4, 0.28), material="organic", thick=rng.uniform(0.4, 0.9)),
        Part(points=((-0.4, -0.28), (0.4, -0.28)), material="organic", thick=0.4, width=0.05),
    ]


def phone(_rng: random.Random) -> list[Part]:
    return [
        Part(points=rounded(-0.35, -0.18, 0.35, 0.18, 0.05), material="light", thick=0.5),
        Part(points=rect(-0.2, -0.13, 0.15, 0.13), material="steel", thick=0.25),
        Part(points=oval(0.27, -0.1, 0.035, 0.035, 8), material="steel", thick=0.5),
    ]


def coins(rng: random.Random) -> list[Part]:
    parts = []
    for _ in range(rng.randint(3, 7)):
        r = rng.uniform(0.05, 0.09)
        at = (rng.uniform(-0.35, 0.35), rng.uniform(-0.3, 0.3))
        parts.append(Part(points=oval(*at, r, r * rng.uniform(0.5, 1), 12), material="steel", thick=0.9))
    return parts


def pen(rng: random.Random) -> list[Part]:
    """A thin straight stick without taper, so that a stick alone does not mean a blade."""
    return [
        Part(points=((-0.4, 0), (0.36, 0)), material=rng.choice(("plastic", "light")), thick=0.9, width=0.05),
        Part(points=((0.36, 0), (0.42, 0)), material="steel", thick=0.6, width=0.02),
    ]


def glasses(_rng: random.Random) -> list[Part]:
    return [
        Part(points=ring(-0.22, 0, 0.17, 0.13), material="plastic", thick=0.9, width=0.03),
        Part(points=ring(0.22, 0, 0.17, 0.13), material="plastic", thick=0.9, width=0.03),
        Part(points=((-0.06, -0.03), (0.06, -0.03)), material="steel", thick=0.5, width=0.025),
        Part(points=((-0.39, -0.03), (-0.42, 0.35)), material="steel", thick=0.4, width=0.02),
        Part(points=((0.39, -0.03), (0.36, 0.35)), material="steel", thick=0.4, width=0.02),
    ]


def fruit(rng: random.Random) -> list[Part]:
    r = rng.uniform(0.22, 0.32)
    return [
        Part(points=oval(0, 0, r, r * rng.uniform(0.85, 1)), material="organic", thick=0.5),
        Part(points=oval(0, 0, r * 0.65, r * 0.6), material="organic", thick=0.3),
    ]


def box(rng: random.Random) -> list[Part]:
    w, h = rng.uniform(0.25, 0.45), rng.uniform(0.15, 0.35)
    return [
        Part(points=rect(-w, -h, w, h), material=rng.choice(("organic", "plastic")), thick=0.4),
        Part(points=(*rect(-w, -h, w, h), (-w, -h)), material="plastic", thick=0.6, width=0.03),
    ]


def spoon(_rng: random.Random) -> list[Part]:
    return [
        Part(points=((-0.5, 0), (0.25, 0)), material="steel", thick=0.6, width=0.035),
        Part(points=oval(0.36, 0, 0.14, 0.085), material="steel", thick=0.5),
    ]


def dryer(_rng: random.Random) -> list[Part]:
    """A hair dryer: bent like a pistol, but round, of plastic, with a coil and a fan."""
    return [
        Part(points=rounded(-0.2, -0.3, 0.45, -0.02, 0.06), material="plastic", thick=0.7),
        Part(points=oval(-0.2, -0.16, 0.19, 0.19), material="plastic", thick=0.7),
        Part(points=oval(-0.2, -0.16, 0.1, 0.1), material="light", thick=0.6),
        Part(points=((-0.15, 0), (-0.08, 0.42)), material="plastic", thick=0.9, width=0.14),
        Part(
            points=((0.1, -0.24), (0.18, -0.08), (0.26, -0.24), (0.34, -0.08)), material="steel", thick=0.4, width=0.02
        ),
    ]


def thermos(rng: random.Random) -> list[Part]:
    """A steel flask without a neck: much steel, no threat."""
    return [
        Part(points=rounded(-0.45, -0.13, 0.4, 0.13, 0.04), material="steel", thick=rng.uniform(0.4, 0.8)),
        Part(points=rect(-0.38, -0.09, 0.25, 0.09), material="organic", thick=0.5),
        Part(points=rounded(0.36, -0.1, 0.5, 0.1, 0.03), material="plastic", thick=1.0),
    ]


def charger(rng: random.Random) -> list[Part]:
    """A dense block with a lead."""
    lead = ((0.25, 0.0), (0.4, rng.uniform(-0.2, 0.2)), (0.5, rng.uniform(-0.3, 0.3)))
    return [
        Part(points=rounded(-0.35, -0.18, 0.25, 0.18, 0.04), material="plastic", thick=0.7),
        Part(points=rect(-0.28, -0.12, rng.uniform(0.0, 0.15), 0.1), material="steel", thick=rng.uniform(0.5, 1.0)),
        Part(points=lead, material="light", thick=0.7, width=0.035),
    ]


EVERYDAY: dict[str, Callable[[random.Random], list[Part]]] = {
    "laptop": laptop, "shoe": shoe, "keys": keys, "umbrella": umbrella, "cable": cable, "can": can, "book": book,
    "phone": phone, "coins": coins, "pen": pen, "glasses": glasses, "fruit": fruit, "box": box, "spoon": spoon,
    "dryer": dryer, "thermos": thermos, "charger": charger,
}  # fmt: skip
# The length of each object in a bag, as a share of the shorter side.
LENGTHS = {
    "laptop": 0.7, "shoe": 0.5, "keys": 0.3, "umbrella": 0.7, "cable": 0.45, "can": 0.4, "book": 0.45, "phone": 0.35,
    "coins": 0.35, "pen": 0.35, "glasses": 0.35, "fruit": 0.35, "box": 0.45, "spoon": 0.4, "dryer": 0.5,
    "thermos": 0.45, "charger": 0.4,
}  # fmt: skip
