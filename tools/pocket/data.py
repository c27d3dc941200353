"""Pools of generated images as plain arrays, drawn by a few processes and kept in a work folder.

Training draws batches from a pool; a pool that is already on disk is used as it is, so a killed run goes on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.pocket.scenes import CHECKS, pretraining
from models.pocket.scenes.pretraining import PLANES, TrainingQuestion
from models.pocket.scenes.scene import Mask, dice, through_file
from models.types import Box

CELL = 32  # pixels: one merged token
FULL_SHARE = 0.08  # a cell counts wholly as having an attribute once this share of it is covered
BOX_SHARE = 0.25  # the same for boxes, which are larger than what they hold


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Same-sized images with their truth, row by row.

    images: (N, H, W, 3) uint8. planes: (N, H/32, W/32, K) uint8, 255 = attribute present; K is one of PLANES for
    "looking", and for a check one of its labels, taken from the boxes.
    questions: per image; only for "looking". labels: index into the check's labels; only for a check.
    """

    images: NDArray[np.uint8]
    planes: NDArray[np.uint8]
    questions: tuple[tuple[TrainingQuestion, ...], ...] = ()
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images)


def cells(masks: dict[str, Mask], w: int, h: int) -> NDArray[np.uint8]:
    """How present every attribute is in every 32 px cell: (h/32, w/32, len(PLANES)), 0..255."""
    out = np.zeros((h // CELL, w // CELL, len(PLANES)), np.uint8)
    for name, mask in masks.items():
        share = mask.reshape(h // CELL, CELL, w // CELL, CELL).mean((1, 3)) / 255
        out[..., PLANES.index(name)] = np.minimum(share / FULL_SHARE, 1) * 255
    return out


def box_cells(boxes: Sequence[Box], labels: Sequence[str], w: int, h: int) -> NDArray[np.uint8]:
    """How much of every 32 px cell lies in a box of each label: (h/32, w/32, len(labels)), 0..255."""
    planes = np.zeros((h, w, len(labels)), np.float32)
    for box in boxes:
        planes[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1), labels.index(box.label)] = 1
    share = planes.reshape(h // CELL, CELL, w // CELL, CELL, len(labels)).mean((1, 3))
    return (np.minimum(share / BOX_SHARE, 1) * 255).astype(np.uint8)


def _file(kind: str, seed: int, index: int, image: Image.Image, jpeg: float) -> NDArray[np.uint8]:
    return np.asarray(through_file(dice(seed, kind + "-file", index), image, jpeg))


def _training_scene(seed: int, size: tuple[int, int], jpeg: float, index: int) -> tuple[Any, ...]:
    scene = pretraining.draw(seed, index, *size)
    questions = [(a.prompt, a.options, a.answer) for a in scene.questions]
    return _file("looking", seed, index, scene.image, jpeg), cells(scene.masks, *size), questions


def _check(name: str, seed: int, size: tuple[int, int], jpeg: float, index: int) -> tuple[Any, ...]:
    module = CHECKS[name]
    scene = module.draw(seed, index, *size)
    planes = box_cells(scene.boxes, module.LABELS, *size)
    return _file(name, seed, index, scene.image, jpeg), planes, module.LABELS.index(scene.label)


def make_pool(
    folder: Path, kind: str, *, seed: int, count: int, size: tuple[int, int], jpeg: float = 0.5, processes: int = 1
) -> Pool:
    """Load the pool from `folder`, or draw it there first.

    kind: "looking", or a check. size: width and height. jpeg: share that goes through a JPEG file.
    """
    path = folder / f"{kind}-{seed}-{count}-{size[0]}x{size[1]}-jpeg{jpeg}"
    if not (path / "done").exists():
        path.mkdir(parents=True, exist_ok=True)
        _draw(path, kind, seed, count, size, jpeg, processes)
        (path / "done").touch()
    return _load(path, kind)


def _draw(path: Path, kind: str, seed: int, count: int, size: tuple[int, int], jpeg: float, processes: int) -> None:
    w, h = size
    images = np.lib.format.open_memmap(path / "images.npy", mode="w+", dtype=np.uint8, shape=(count, h, w, 3))
    draw: Callable[[int], tuple[Any, ...]]
    draw = partial(_training_scene, seed, size, jpeg) if kind == "looking" else partial(_check, kind, seed, size, jpeg)
    rest: list[tuple[Any, ...]] = []
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for i, row in enumerate(pool.imap(draw, range(count), chunksize=32)):
            images[i] = row[0]
            rest.append(row[1:])
    images.flush()
    np.save(path / "planes.npy", np.stack([row[0] for row in rest]))
    if kind == "looking":
        (path / "asks.json").write_text(json.dumps([row[1] for row in rest]))
    else:
        np.save(path / "labels.npy", np.array([row[1] for row in rest], np.int64))


def _load(path: Path, kind: str) -> Pool:
    images, planes = np.load(path / "images.npy", mmap_mode="r"), np.load(path / "planes.npy")
    if kind != "looking":
        return Pool(images=images, planes=planes, labels=np.load(path / "labels.npy"))
    rows = json.loads((path / "asks.json").read_text())
    questions = tuple(tuple(TrainingQuestion(prompt=p, options=tuple(o), answer=a) for p, o, a in row) for row in rows)
    return Pool(images=images, planes=planes, questions=questions)
