"""An activated LoRA against a plain one on the same labels: accuracy of the pocket model on unseen pictures.

Three ways: the recipe of a training worker, instruction first; the same with the image first, which the built-in base
did not learn; and the activated LoRA, which is trained with the image first. The same pictures and splits for all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from bench.pocket import fresh
from bench.report import Report
from bench.training.learning_curve import SEEDS, UNSEEN_SEED, Point, examples_of, fitted
from scanfleet.models.adapters.metrics import wilson
from scanfleet.models.network.base import load_base
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.recipes import load_recipe
from scanfleet.models.types import Order

CASES = (("overlay", 128), ("baggage", 128))  # check, side in pixels
SIZES = (300,)  # labels
N_UNSEEN = 600
WAYS: dict[str, tuple[str, Order]] = {
    "lora": ("pocket-lora", "instruction-first"),
    "lora_image_first": ("pocket-lora", "image-first"),
    "alora": ("pocket-alora", "image-first"),
}
RESAMPLES = 10_000


def run() -> Report:
    torch.set_num_threads(1)
    figures = {f"{check}_{side}": _case(check, side) for check, side in CASES}
    note = (
        f"{N_UNSEEN} unseen pictures, {len(SEEDS)} seeds (pictures, order, first weights); accuracy: mean of all; "
        "low and high: Wilson 95 % of the pictures of all seeds; against_lora: accuracy minus that of `lora`, with the "
        "95 % of a bootstrap over pictures"
    )
    return Report(name="alora", figures=figures, notes=(note,))


def _case(check: str, side: int) -> dict[str, Any]:
    base = load_base("pocket", precision="fp32")
    unseen = list(fresh(check, UNSEEN_SEED, [(side, side, N_UNSEEN)]))
    points: dict[tuple[str, int], list[Point]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            examples = examples_of(check, side, Path(folder) / f"images-{seed}", seed)
            for way, (recipe, order) in WAYS.items():
                for n in SIZES:
                    work = Path(folder) / f"{seed}-{way}-{n}"
                    question = replace(QUESTIONS[check], order=order)
                    found = fitted(base, question, load_recipe(recipe), examples[:n], unseen, seed=seed, work=work)
                    points.setdefault((way, n), []).append(found)
    return {f"{way}_{n}": _figures(found, points["lora", n]) for (way, n), found in points.items()}


def _figures(points: Sequence[Point], plain: Sequence[Point]) -> dict[str, Any]:
    low, high = wilson(sum(sum(point.right) for point in points), N_UNSEEN * len(points))
    return {
        "accuracy": mean(point.accuracy for point in points),
        "low": low,
        "high": high,
        "auroc": mean(point.area for point in points),
        "seconds": mean(point.seconds for point in points),
        "against_lora": _difference(points, plain),
    }


def _difference(points: Sequence[Point], plain: Sequence[Point]) -> list[float]:
    """Return mean, low and high of the difference; the seeds share the pictures, which are drawn together."""
    ours, theirs = (np.array([point.right for point in each], float).mean(0) for each in (points, plain))
    drawn = np.random.default_rng(1).integers(len(ours), size=(RESAMPLES, len(ours)))
    means = (ours - theirs)[drawn].mean(1)
    return [float((ours - theirs).mean()), *np.quantile(means, (0.025, 0.975)).tolist()]
