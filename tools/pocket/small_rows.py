"""Training rows for a check about one small part: a whole view, a smaller one for context, and a crop around the part.

Bags without the part are generated once, at native size. Every row takes one of them, adds its own part and renders the
part at each scale, so that no two rows are the same and rendering stays fast. The part in a crop has exactly the detail
of the archive's image.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanfleet.models.pocket.scenes.canvas import BICUBIC
from scanfleet.models.pocket.scenes.razor import EMPTY, LABELS, SPREAD, Plate, bag, lay_plate, plate
from scanfleet.models.pocket.scenes.scene import Field, dice, normal
from scanfleet.models.pocket.scenes.xray import Pose
from scanfleet.models.types import Box
from tools.pocket.data import CELL

BOX_SHARE = 0.25  # of a cell: so much of a large part in a cell makes it the part's
SHARPEST = 448  # px: a crop is never rendered larger than this before it is resized
CUT = (0.12, 0.4)  # side of a crop as a share of the shorter side; a quarter longer than the part at least
MISSED = 0.12  # share of the crops that are laid anywhere
FEWEST = 16  # px: a part is at least this long in the archive's image

Picture = NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of rows: the part's length as a share of the shorter side, and the archive image's side."""

    share: tuple[float, float]
    side: tuple[int, int]


TINY = Range(share=(0.01, 0.05), side=(512, 2048))
LARGE = Range(share=(0.05, 0.5), side=(256, 1024))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes (width, height) in pixels, all multiples of 32: of the crop, and of "view" and "context" unless the crop
    is to be alone."""

    crop: tuple[int, int]
    whole: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One picture of every row: images (B, H, W, 3) uint8, and part (B, H/32 * W/32), 0..1: the cells of the part."""

    images: Picture
    part: Field


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """shown: "view", "context" and "crop", or "crop" alone. labels: (B,) index into the check's labels."""

    shown: dict[str, Shown]
    labels: NDArray[np.int64]


def part_cells(box: Box | None, w: int, h: int) -> Field:
    """How much every 32 px cell belongs to the part, (h/32 * w/32,), 0..1: a tiny part fills the cell it lies in."""
    if box is None:
        return np.zeros(h // CELL * (w // CELL), np.float32)
    x = np.arange(0, w, CELL, dtype=np.float32)
    y = np.arange(0, h, CELL, dtype=np.float32)
    across = np.clip(np.minimum(box.x1, x + CELL) - np.maximum(box.x0, x), 0, None)
    down = np.clip(np.minimum(box.y1, y + CELL) - np.maximum(box.y0, y), 0, None)
    area = max(1e-6, (box.x1 - box.x0) * (box.y1 - box.y0))
    cells: Field = np.minimum(np.outer(down, across) / min(area, BOX_SHARE * CELL * CELL), 1)
    return cells.ravel().astype(np.float32)


def _bag(seed: int, size: tuple[int, int], index: int) -> Picture:
    return (np.clip(bag(dice(seed, "razor-bag", index), *size), 0, 1) * 255).astype(np.uint8)


def bags(folder: Path, *, seed: int, count: int, size: tuple[int, int]) -> Picture:
    """Return [count, height, width, 3] bags without a small part and without noise.

    They are generated if `folder` does not have them.
    """
    path = folder / f"razor-bags-{seed}-{count}-{size[0]}x{size[1]}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        shape = (count, size[1], size[0], 3)
        drawn = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.uint8, shape=shape)
        with get_context("spawn").Pool(1) as pool:
            for i, picture in enumerate(pool.imap(partial(_bag, seed, size), range(count), chunksize=16)):
                drawn[i] = picture
        drawn.flush()
        fresh.replace(path)
    loaded: Picture = np.load(path)
    return loaded


@dataclass(frozen=True, kw_only=True)
class _Lie:
    """Where a part lies, in shares: x, y of the picture's sides, length of its shorter one."""

    x: float
    y: float
    length: float
    turn: float

    def pose(self, w: float, h: float) -> Pose:
        return Pose(x=self.x * w, y=self.y * h, scale=self.length * min(w, h), turn=self.turn)


def draw_rows(rng: random.Random, empty: Picture, shape: Shape, ranges: Sequence[Range], count: int) -> Rows:
    """`count` rows over bags of the views' proportions; each takes one of `ranges`."""
    drawn = [_row(rng, empty, shape, rng.choice(ranges)) for _ in range(count)]
    shown = {
        name: Shown(
            images=np.stack([row[name][0] for row, _ in drawn]), part=np.stack([row[name][1] for row, _ in drawn])
        )
        for name in drawn[0][0]
    }
    return Rows(shown=shown, labels=np.array([label for _, label in drawn], np.int64))


def _row(rng: random.Random, empty: Picture, shape: Shape, how: Range) -> tuple[dict[str, tuple[Picture, Field]], int]:
    picture = empty[rng.randrange(len(empty))][:: rng.choice((1, -1)), :: rng.choice((1, -1))]
    label = rng.choice(LABELS)
    small = plate(rng, label) if label == "blade" or rng.random() >= EMPTY else None
    lie = _Lie(
        x=0.5 + rng.uniform(-SPREAD, SPREAD),
        y=0.5 + rng.uniform(-SPREAD, SPREAD),
        length=math.exp(rng.uniform(*map(math.log, how.share))),
        turn=rng.uniform(0, 2 * math.pi),
    )
    side = max(FEWEST / lie.length, math.exp(rng.uniform(*map(math.log, how.side))))  # of the archive's image
    noise = rng.uniform(0.004, 0.02)
    image = Image.fromarray(np.ascontiguousarray(picture))
    shown = {"crop": _crop(rng, image, shape.crop, small, lie, side, noise)}
    for name, size in shape.whole.items():
        seen = _light(image.resize(size, BICUBIC))
        box = lay_plate(seen, small.parts, lie.pose(*size)) if small else None
        finer = max(1.0, side / min(size))
        shown[name] = _noisy(rng, seen, noise / finer), part_cells(box, *size)
    return shown, LABELS.index(label)


def _crop(
    rng: random.Random,
    image: Image.Image,
    size: tuple[int, int],
    small: Plate | None,
    lie: _Lie,
    side: float,
    noise: float,
) -> tuple[Picture, Field]:
    """A crop round the part (now and then anywhere) at the archive's detail, resized to `size`, and its cells."""
    w, h = image.size
    s = min(w, h)
    cut = min(1.0, max(lie.length * 1.25, rng.uniform(*CUT))) * s  # side of the crop
    loose = max(0.0, cut - lie.length * s) * 0.45
    x, y = lie.x * w + rng.uniform(-loose, loose), lie.y * h + rng.uniform(-loose, loose)
    if rng.random() < MISSED:
        x, y = rng.uniform(0, w), rng.uniform(0, h)
    x0, y0 = min(max(0.0, x - cut / 2), w - cut), min(max(0.0, y - cut / 2), h - cut)
    pixels = min(SHARPEST, max(48, round(cut / s * side)))  # of the crop in the archive's image
    seen = _light(image.resize((pixels, pixels), BICUBIC, (x0, y0, x0 + cut, y0 + cut)))
    box, zoom = None, pixels / cut
    if small:
        pose = Pose(x=(lie.x * w - x0) * zoom, y=(lie.y * h - y0) * zoom, scale=lie.length * s * zoom, turn=lie.turn)
        box = lay_plate(seen, small.parts, pose)
    photo = Image.fromarray(_noisy(rng, seen, noise))
    if rng.random() < 0.3:
        photo = _jpeg(photo, rng.randint(80, 95))
    k = size[0] / pixels
    cells = part_cells(box and Box(x0=box.x0 * k, y0=box.y0 * k, x1=box.x1 * k, y1=box.y1 * k, label=""), *size)
    return np.asarray(photo.resize(size, BICUBIC)), cells


def _light(image: Image.Image) -> Field:
    """(H, W, 3), 0..1."""
    return np.asarray(image, np.float32) / np.float32(255)


def _noisy(rng: random.Random, seen: Field, sigma: float) -> Picture:
    h, w = seen.shape[:2]
    return (np.clip(seen + normal(rng, (h, w, 1)) * np.float32(sigma), 0, 1) * 255).astype(np.uint8)


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")
