"""The razor family: a bag with one small dense part, either a razor blade or a plate that differs only in its detail.

It tests acuity, like a Landolt ring. Blade and look-alike share outline, material, thickness, size and place, so a
picture in which the part is a few pixels long shows where it is but not what it is. The difference is the blade's slot,
whose width is 10 to 13 % of its length; a look-alike may have as much cut out elsewhere.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from scanfleet.models.pocket.scenes.baggage import lay_bag, random_pose
from scanfleet.models.pocket.scenes.belongings import EVERYDAY, LENGTHS
from scanfleet.models.pocket.scenes.scene import Field, Scene, dice
from scanfleet.models.pocket.scenes.xray import Depths, Part, Pose, detect, expose, oval, rect, rounded
from scanfleet.models.types import Box

LABELS = ("blade", "none")
SMALLEST, LARGEST = 0.15, 0.5  # default range of the part's length as a share of the shorter side
EMPTY = 0.2  # share of the "none" pictures that hold no small part at all
LOOK_ALIKES = (
    "plain",
    "tag",
    "core",
    "notched",
    "notched",
    "pierced",
    "pierced",
)  # those as light as a blade count twice
SPREAD = 0.34  # largest distance of a part from the middle, as a share of each side
# Belongings without small dense pieces of their own, which would be mistaken for the part.
QUIET = ("umbrella", "can", "book", "glasses", "fruit", "box", "dryer", "thermos", "pen", "spoon")


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A small dense part: its outlines in unit coordinates (one unit long), what it is, and which make."""

    parts: tuple[Part, ...]
    label: str
    make: str


def plate(rng: random.Random, label: str) -> Plate:
    """Return a blade, or for "none" one of its look-alikes; all share the same outlines and thicknesses."""
    half, thick = rng.uniform(0.17, 0.33), rng.uniform(1.3, 2.2)
    body = Part(points=rounded(-0.5, -half, 0.5, half, rng.uniform(0.02, 0.12)), material="steel", thick=thick)
    slot, long = rng.uniform(0.05, 0.065), rng.uniform(0.28, 0.36)  # half the slot's width and length
    make = rng.choice(("slot", "holes") if label == "blade" else LOOK_ALIKES)
    return Plate(parts=(body, *_detail(make, half, slot, long, thick)), label=label, make=make)


def _detail(make: str, half: float, slot: float, long: float, thick: float) -> list[Part]:
    """What tells the makes apart.

    "core" is a slot inverted; "notched" and "pierced" have a slot's area cut out of their edges and corners, so that
    how dark a part is on the whole says little.
    """
    middle = rect(-long, -slot, long, slot)
    if make == "slot":
        return [_hole(middle)]
    if make == "holes":
        return [_hole(middle), *(_hole(oval(x, 0, slot * 1.35, slot * 1.35, 12)) for x in (-long, 0, long))]
    if make == "tag":
        return [_hole(oval(-0.34, 0, slot * 1.6, slot * 1.6, 12))]
    if make == "core":
        return [Part(points=middle, material="steel", thick=thick * 0.4)]
    if make == "notched":
        edges = ((-half - 0.02, slot - half), (half - slot, half + 0.02))
        return [_hole(rect(-long, y0, long, y1)) for y0, y1 in edges]
    if make == "pierced":
        r = math.sqrt(slot * long / math.pi)
        y = half - 0.9 * r
        return [_hole(oval(x, at, r, r, 12)) for x in (-0.36, 0.36) for at in (-y, y)]
    return []


def _hole(points: tuple[tuple[float, float], ...]) -> Part:
    return Part(points=points, material="steel", thick=0, hole=True)


def bag(rng: random.Random, width: int, height: int) -> Field:
    """Return a bag without any small part, exposed but without noise.

    Args:
        rng: the picture's random source.
        width: in pixels.
        height: in pixels.

    Returns:
        [height, width, 3] fp32 in 0..1.
    """
    depths = Depths(width, height)
    lay_bag(rng, depths)
    for _ in range(rng.randint(2, 6)):
        name = rng.choice(QUIET)
        depths.add(EVERYDAY[name](rng), random_pose(rng, width, height, LENGTHS[name] * rng.uniform(0.8, 1.15)))
    return expose(rng, depths)


def lay_plate(seen: Field, parts: tuple[Part, ...], pose: Pose) -> Box | None:
    """Add a part to an exposed picture, in place: by Beer-Lambert it multiplies the light that arrives behind it.

    A small part is drawn several times finer than the picture's pixels, so that sub-pixel detail averages out as on a
    detector.

    Args:
        seen: [height, width, 3] fp32 in 0..1, changed in place.
        parts: the part's outlines.
        pose: in pixels of the picture.

    Returns:
        The part's box without a label, or None if it lies outside the picture.
    """
    h, w = seen.shape[:2]
    fine = max(1, min(6, math.ceil(48 / pose.scale)))
    reach = pose.scale * 0.62 + 2
    x0, x1 = max(0, int(pose.x - reach)), min(w, int(pose.x + reach) + 1)
    y0, y1 = max(0, int(pose.y - reach)), min(h, int(pose.y + reach) + 1)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    depths = Depths((x1 - x0) * fine, (y1 - y0) * fine)
    local = Pose(
        x=(pose.x - x0) * fine, y=(pose.y - y0) * fine, scale=pose.scale * fine, turn=pose.turn, mirror=pose.mirror
    )
    box, _ = depths.add(list(parts), local)
    if box is None:
        return None
    through = np.exp(-depths.depth).reshape(y1 - y0, fine, x1 - x0, fine, 3).mean((1, 3))
    seen[y0:y1, x0:x1] *= through
    return Box(x0=x0 + box.x0 / fine, y0=y0 + box.y0 / fine, x1=x0 + box.x1 / fine, y1=y0 + box.y1 / fine, label="")


def draw(
    seed: int,
    index: int,
    width: int,
    height: int,
    label: str | None = None,
    share: tuple[float, float] = (SMALLEST, LARGEST),
) -> Scene:
    """Return picture `index` of a seed: blade and none in turn.

    A look-alike's box is in `boxes` with the label "none". `style` names the make ("empty" without a small part).

    Args:
        seed: of the set.
        index: of the picture.
        width: in pixels.
        height: in pixels.
        label: "blade" or "none"; None: in turn.
        share: range of the part's length as a share of the shorter side.
    """
    rng = dice(seed, "razor", index)
    label = label or LABELS[index % 2]
    seen = bag(rng, width, height)
    boxes: tuple[Box, ...] = ()
    style = "empty"
    if label == "blade" or rng.random() >= EMPTY:
        small = plate(rng, label)
        length = rng.uniform(*share)
        pose = random_pose(rng, width, height, length, spread=SPREAD)
        box = lay_plate(seen, small.parts, pose)
        assert box is not None
        boxes, style = (Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1, label=label),), small.make
    image: Image.Image = detect(rng, seen, blur=rng.uniform(0.0, 0.6) * min(1.0, min(width, height) / 512))
    return Scene(image=image, label=label, boxes=boxes, style=style)
