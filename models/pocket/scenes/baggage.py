"""The baggage family: X-ray-like bags of overlapping belongings, with one threat or none."""

from __future__ import annotations

import math
import random

from scanfleet.models.pocket.scenes.belongings import EVERYDAY, LENGTHS
from scanfleet.models.pocket.scenes.scene import Scene, dice
from scanfleet.models.pocket.scenes.threats import THREATS
from scanfleet.models.pocket.scenes.xray import MATERIALS, Depths, Part, Pose, develop, fog, ring, rounded
from scanfleet.models.types import Box

LABELS = ("knife", "gun", "scissors", "bottle", "none")
SMALLEST, LARGEST = 0.34, 0.62  # a threat's length as a share of the shorter side


def lay_bag(rng: random.Random, depths: Depths) -> None:
    """Add the bag itself: a soft outline, seams, perhaps a zip or wheels, and clothes as smooth fog."""
    h, w = depths.depth.shape[:2]
    outline = rounded(-0.48, -0.46, 0.48, 0.46, rng.uniform(0.04, 0.2))
    s = min(w, h)
    pose = Pose(x=w / 2, y=h / 2, scale=s * rng.uniform(0.94, 1.02), turn=rng.uniform(-0.06, 0.06))
    parts = [
        Part(points=outline, material="organic", thick=rng.uniform(0.08, 0.25)),
        Part(points=(*outline, outline[0]), material="plastic", thick=rng.uniform(0.3, 0.7), width=0.025),
    ]
    if rng.random() < 0.4:
        y = rng.uniform(-0.3, 0.3)
        parts.append(Part(points=((-0.45, y), (0.45, y)), material="light", thick=0.35, width=0.012))
    if rng.random() < 0.3:
        for x in (-0.4, 0.4):
            parts.append(Part(points=ring(x, 0.42, 0.05, 0.05), material="light", thick=0.6, width=0.03))
    _, inside = depths.add(parts, pose)
    clothes = fog(rng, w, h) * rng.uniform(0.1, 0.55)
    if inside is not None:
        clothes = clothes * (inside > 0)
    for channel, mu in enumerate(MATERIALS["organic"]):
        depths.depth[..., channel] += clothes * mu


def random_pose(rng: random.Random, w: int, h: int, length: float, spread: float = 0.36) -> Pose:
    s = min(w, h)
    return Pose(
        x=w * (0.5 + rng.uniform(-spread, spread)),
        y=h * (0.5 + rng.uniform(-spread, spread)),
        scale=s * length,
        turn=rng.uniform(0, 2 * math.pi),
        mirror=rng.random() < 0.5,
    )


def add_belongings(rng: random.Random, depths: Depths, count: int) -> list[str]:
    h, w = depths.depth.shape[:2]
    names = [rng.choice(tuple(EVERYDAY)) for _ in range(count)]
    for name in names:
        pose = random_pose(rng, w, h, LENGTHS[name] * rng.uniform(0.8, 1.15))
        depths.add(EVERYDAY[name](rng), pose)
    return names


def draw(seed: int, index: int, width: int, height: int, label: str | None = None) -> Scene:
    """Return picture `index` of a seed: half of them bags without a threat, the rest the four threats in turn."""
    rng = dice(seed, "baggage", index)
    if label is None:
        label = LABELS[(index // 2) % 4] if index % 2 else "none"
    depths = Depths(width, height)
    lay_bag(rng, depths)
    # One more harmless object where there is no threat, so that the number of objects tells nothing.
    names = add_belongings(rng, depths, rng.randint(2, 6) + (label == "none"))
    boxes: tuple[Box, ...] = ()
    if label != "none":
        pose = random_pose(rng, width, height, rng.uniform(SMALLEST, LARGEST), spread=0.22)
        box, _ = depths.add(THREATS[label](rng), pose)
        assert box is not None
        boxes = (Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1, label=label),)
    image = develop(rng, depths, blur=rng.uniform(0.0, 0.6) * width / 160)
    return Scene(image=image, label=label, boxes=boxes, style="+".join(sorted(names)))
