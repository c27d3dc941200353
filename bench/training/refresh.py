"""Seconds per epoch of the adapter refresh, against a plain Trainer + PEFT with the same recipe, images and order.

Both train the same LoRA from the same initial weights on the same rows. The plain one reads every image again in every
epoch. The refresh keeps the frozen tower's output for each image and reads the instruction once a step. Dropout is off
in both, so that their losses can be compared.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.pocket import fresh
from bench.report import Report
from bench.training import plain_training
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.recipes import Recipe, load_recipe
from scanfleet.models.training.data.sampler import Plan
from scanfleet.models.training.data.types import Example, Progress
from scanfleet.models.training.fit import fit
from scanfleet.models.training.optimiser import rate
from scanfleet.models.training.tasks.network import activated
from scanfleet.models.types import Question

CHECK = "overlay"
SEED = 7_100_000  # the pocket model was trained on none of these images
N_IMAGES = 128
EPOCHS = 3
ROUNDS = 5
SIDES = (128, 224, 448)  # pixels
HEADLINE = 224


@dataclass(frozen=True, kw_only=True)
class Sides:
    """One round: seconds of every epoch and the mean loss of the last one, for both trainings."""

    ours: Sequence[float]
    plain: Sequence[float]
    our_loss: float
    plain_loss: float


def run() -> Report:
    base = load_base("pocket", precision="fp32")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            place = Path(folder) / str(side)
            rows = list(_images(place, side))
            # The first round warms both up.
            rounds = [_round(base, rows, place / str(number)) for number in range(ROUNDS + 1)][1:]
            figures[f"{side}px"] = _figures(rounds)
    headline = figures[f"{HEADLINE}px"]
    top = {name: headline[name] for name in ("epoch_speedup", "loss_difference")}
    return Report(name="refresh", figures=top | figures, notes=(_note(),))


def _note() -> str:
    return (
        f"{N_IMAGES} images, {EPOCHS} epochs, medians of {ROUNDS} rounds in turn; speed-up from the second epoch on, "
        f"{HEADLINE} px; loss_difference: of the last epoch's mean loss, the widest of all rounds"
    )


def _figures(rounds: Sequence[Sides]) -> dict[str, float]:
    later = [(statistics.median(each.plain[1:]), statistics.median(each.ours[1:])) for each in rounds]
    whole = [(sum(each.plain), sum(each.ours)) for each in rounds]
    return {
        "epoch_speedup": statistics.median(plain / ours for plain, ours in later),
        "run_speedup": statistics.median(plain / ours for plain, ours in whole),
        "epoch_s": statistics.median(ours for _, ours in later),
        "plain_epoch_s": statistics.median(plain for plain, _ in later),
        "loss": statistics.median(each.our_loss for each in rounds),
        "loss_difference": max(abs(each.our_loss - each.plain_loss) for each in rounds),
    }


def _images(place: Path, side: int) -> Iterator[tuple[Path, int]]:
    place.mkdir()
    for number, (image, label, _) in enumerate(fresh(CHECK, SEED, [(side, side, N_IMAGES)])):
        path = place / f"{number:04}.png"
        image.save(path)
        yield path, label


def _round(base: BaseModel, rows: Sequence[tuple[Path, int]], work: Path) -> Sides:
    question = QUESTIONS[CHECK]
    recipe = load_recipe("pocket-lora", overrides={"dropout": 0.0, "epochs": EPOCHS, "min_steps": 0, "patience": 0})
    plain = plain_training.train(base, question, rows, _course(base, rows, recipe), work=work / "plain")
    epochs = _ours(base, question, rows, recipe, work / "ours")
    reached = [0.0, *(epoch.seconds for epoch in epochs)]
    seconds = [end - start for start, end in pairwise(reached)]
    last = epochs[-1].loss
    assert last is not None
    return Sides(ours=seconds, plain=plain.seconds, our_loss=last, plain_loss=plain.losses[-1])


def _ours(
    base: BaseModel, question: Question, rows: Sequence[tuple[Path, int]], recipe: Recipe, work: Path
) -> Sequence[Progress]:
    examples = [Example(key=path.name, path=path, label=label, cluster=path.name) for path, label in rows]
    return fit(base, question, examples, [], recipe, seed=1, work=work, on_progress=lambda _: None).history


def _course(base: BaseModel, rows: Sequence[tuple[Path, int]], recipe: Recipe) -> plain_training.Course:
    """Return the LoRA, rates and order of rows that `fit` uses."""
    plan = Plan(
        labels=[label for _, label in rows],
        small=[0] * len(rows),
        seed=1,
        batch=recipe.batch,
        accumulation=recipe.accumulation,
        balanced=recipe.balanced,
        small_share=recipe.small_share,
    )
    steps = [plan.epoch(number, dict.fromkeys(plan.sample_ids(), 1)) for number in range(EPOCHS)]
    with activated(base, recipe, seed=1) as network:
        lora = network.lora
    return plain_training.Course(
        lora=lora,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        batch=recipe.batch,
        seed=1,
        epochs=[[i for step in epoch for forward in step for i, _ in forward] for epoch in steps],
        rate=partial(rate, steps=EPOCHS * plan.steps, lr=1.0, warm_up=recipe.warm_up),
    )
