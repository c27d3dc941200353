"""Measure the razor adapter on small parts: `python -m tools.pocket.acuity [--json FILE]`, on fresh pictures.

Tiny parts (1 to 5 % of the shorter side) and large ones from `models/pocket/scenes/planted.py` go through the serving
stack: the first pass alone, and a crop around the part (around any place without one) alone, with the whole view, and
with a small view for context. Also measured: whether the first pass's attention, averaged over heads and the middle
layers, has its densest 2 x 2 and 3 x 3 cells of 32 px at the part.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.adapters.metrics import wilson
from scanfleet.models.families import PreparedImage, PreparedRow, Row
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket import adapter_folder
from scanfleet.models.pocket.questions import RAZOR
from scanfleet.models.pocket.scenes.planted import Planted, large, planted
from scanfleet.models.relevance.prompt_runner import PromptRunner
from scanfleet.models.scoring.prefill import PrefillScorer

SEED = 1903
CROP, CONTEXT = 192, 160  # px: sides of a crop, and of the small view beside it
TURNS = ("first look", "crop", "whole view and crop", "small view and crop")
WINDOWS = (2, 3)  # cells
FALSE_POSITIVES = 0.05


def auroc(margins: Sequence[float], positive: Sequence[bool]) -> float:
    """Return the probability that a positive's margin is above a negative's; ties count half."""
    yes = np.array([m for m, p in zip(margins, positive, strict=True) if p])[:, None]
    no = np.array([m for m, p in zip(margins, positive, strict=True) if not p])
    return float(((yes > no) + 0.5 * (yes == no)).mean())


def recall_at(margins: Sequence[float], positive: Sequence[bool], rate: float) -> float:
    """Return the share of the positives above the margin that at most `rate` of the negatives exceed."""
    no = np.sort([m for m, p in zip(margins, positive, strict=True) if not p])[::-1]
    over = float(no[int(rate * len(no))])
    return float(np.mean([m > over for m, p in zip(margins, positive, strict=True) if p]))


def crop_box(rng: random.Random, picture: Planted) -> tuple[float, float, float, float]:
    """Return a square of .15 to .3 of the shorter side (.6 for a large part), slightly off the part's middle."""
    w, h = picture.image.size
    box, s = picture.box, min(w, h)
    tiny = box is None or max(box.x1 - box.x0, box.y1 - box.y0) < 0.06 * s
    side = s * (rng.uniform(0.15, 0.3) if tiny else 0.6)
    x, y = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) if box else (rng.uniform(0, w), rng.uniform(0, h))
    off = 0.2 * side if tiny else 0.0
    x0 = min(max(0.0, x + rng.uniform(-off, off) - side / 2), w - side)
    y0 = min(max(0.0, y + rng.uniform(-off, off) - side / 2), h - side)
    return x0, y0, x0 + side, y0 + side


def densest_holds(values: NDArray[np.float32], picture: Planted, cells: int) -> bool:
    """Whether the window of `cells` x `cells` with the largest sum holds the part's middle. values: (rows, columns)."""
    assert picture.box is not None
    windows = np.lib.stride_tricks.sliding_window_view(values, (cells, cells)).sum((2, 3))
    row, column = np.unravel_index(windows.argmax(), windows.shape)
    box, (w, h) = picture.box, picture.image.size
    x, y = (box.x0 + box.x1) / 2 / w * values.shape[1], (box.y0 + box.y1) / 2 / h * values.shape[0]
    return bool(column <= x <= column + cells and row <= y <= row + cells)


def measure(base: BaseModel, scorer: PrefillScorer, draw: Callable[[int, int], Planted], count: int) -> dict[str, Any]:
    """The figures of one kind of picture."""
    rng = random.Random(f"acuity/{SEED}")
    runner = PromptRunner(base=base, scorer=scorer, turn=scorer.prompt.turn)
    layers = range(*_middle(base.network.config.text_config.num_hidden_layers))
    margins: dict[str, list[float]] = {turn: [] for turn in TURNS}
    held: dict[int, list[bool]] = {cells: [] for cells in WINDOWS}
    chance: dict[int, list[float]] = {cells: [] for cells in WINDOWS}
    positive = []
    for index in range(count):
        picture = draw(SEED, index)
        positive.append(picture.label == "blade")
        view = scorer.prepare(picture.image)
        for turn, reading in zip(TURNS, scorer.score(_rows(base, rng, picture, view)), strict=True):
            margins[turn].append(reading.margin)
        if picture.box:
            (values,) = runner.attention([view], tuple(layers))
            shape = view.grid
            for cells in WINDOWS:
                held[cells].append(densest_holds(values.reshape(shape), picture, cells))
                chance[cells].append(cells**2 / values.size)
    return {
        "n": count,
        "turns": {turn: _figures(margins[turn], positive) for turn in TURNS},
        "attention": {
            f"{cells}x{cells}": {**_share(held[cells]), "chance": round(float(np.mean(chance[cells])), 3)}
            for cells in WINDOWS
        },
    }


def _middle(layers: int) -> tuple[int, int]:
    return layers // 3, layers - layers // 3


def _rows(base: BaseModel, rng: random.Random, picture: Planted, view: PreparedImage) -> list[Row]:
    image = picture.image.resize((CROP, CROP), Image.Resampling.BICUBIC, crop_box(rng, picture))
    crop = base.processor.prepare(image, max_pixels=CROP * CROP, min_pixels=RAZOR.min_pixels)
    small = base.processor.prepare(picture.image, max_pixels=CONTEXT * CONTEXT, min_pixels=RAZOR.min_pixels)
    return [view, crop, PreparedRow(images=(view, crop)), PreparedRow(images=(small, crop))]


def _figures(margins: Sequence[float], positive: Sequence[bool]) -> dict[str, Any]:
    right = [(m > 0) == p for m, p in zip(margins, positive, strict=True)]
    return {
        "auroc": round(auroc(margins, positive), 3),
        "recall": round(recall_at(margins, positive, FALSE_POSITIVES), 3),
        "accuracy": _share(right),
        "middle margins": {
            name: [round(float(q), 2) for q in np.percentile(_of(margins, positive, kind), (5, 50, 95))]
            for name, kind in (("blade", True), ("none", False))
        },
    }


def _of(margins: Sequence[float], positive: Sequence[bool], kind: bool) -> list[float]:
    return [m for m, p in zip(margins, positive, strict=True) if p == kind]


def _share(hits: Sequence[bool]) -> dict[str, float]:
    low, high = wilson(sum(hits), len(hits))
    return {"value": round(sum(hits) / max(1, len(hits)), 3), "low": round(low, 3), "high": round(high, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path, default=adapter_folder("razor"))
    parser.add_argument("--n", type=int, default=300, help="pictures of each kind")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    base = load_base("pocket")
    scorer = factory.scorer(base, RAZOR, arguments.adapter)
    kinds = {"tiny": planted, "large": large}
    results = {name: measure(base, scorer, draw, arguments.n) for name, draw in kinds.items()}
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
