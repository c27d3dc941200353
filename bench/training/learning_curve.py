"""The value of labels: accuracy of the pocket model on unseen pictures after training on 50 to 800 labels, three seeds.

Every point is a whole fit by the recipe of a training worker, with a fifth of the labels held out for early stopping,
scored through the serving stack. The smaller sets are parts of the larger ones. Also draws a plot for docs/.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from bench.pocket import Measured, fresh, measure
from bench.report import Report
from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.adapters.metrics import wilson
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.recipes import Recipe, recipes_for
from scanfleet.models.training.data.types import Example
from scanfleet.models.training.fit import fit
from scanfleet.models.types import Question

CHECK = "overlay"
SIZES = (50, 100, 200, 400, 800)  # labels
SEEDS = (1, 2, 3)
SIDE = 128  # pixels
HELD_OUT = 5  # one label in HELD_OUT is held out for early stopping
TRAIN_SEED, UNSEEN_SEED = 7_200_000, 7_300_000  # of the pictures; the pocket model was trained on none of them
N_UNSEEN = 600
PLOT = Path(__file__).parents[2] / "docs" / "images" / "learning_curve.png"

Labelled = list[tuple[Image.Image, int, str]]


@dataclass(frozen=True, kw_only=True)
class Point:
    """The accuracy of one fit on the unseen pictures; accuracy: of three labels; area: AUROC of flag or not."""

    labels: int
    right: tuple[bool, ...]  # for each picture
    accuracy: float
    area: float
    seconds: float


def run() -> Report:
    torch.set_num_threads(1)  # with so small a model a second thread costs more than it gains
    base = load_base("pocket", precision="fp32")
    unseen = list(fresh(CHECK, UNSEEN_SEED, [(SIDE, SIDE, N_UNSEEN)]))
    question, recipe = QUESTIONS[CHECK], recipes_for(base)[0]
    zero = point_of(measure(factory.scorer(base, QUESTIONS[CHECK], rotated=True), unseen), labels=0, seconds=0.0)
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            examples = examples_of(CHECK, SIDE, Path(folder) / f"images-{seed}", seed)
            for n in SIZES:
                points.append(
                    fitted(base, question, recipe, examples[:n], unseen, seed=seed, work=Path(folder) / f"{seed}-{n}")
                )
    _plot(zero, points)
    figures: dict[str, Any] = {"zero_shot": _figures([zero])}
    figures |= {f"{n}_labels": _figures([point for point in points if point.labels == n]) for n in SIZES}
    return Report(name="learning-curve", figures=figures, notes=(_note(),))


def _note() -> str:
    return (
        f"{CHECK}, {SIDE} px, {N_UNSEEN} unseen pictures, {len(SEEDS)} seeds (pictures, order, first weights); "
        "mean, lowest and highest of the seeds; low and high: Wilson 95 % of the pictures of all seeds together"
    )


def _figures(points: Sequence[Point]) -> dict[str, float]:
    shares = [point.accuracy for point in points]
    low, high = wilson(sum(sum(point.right) for point in points), N_UNSEEN * len(points))
    return {
        "accuracy": mean(shares),
        "lowest": min(shares),
        "highest": max(shares),
        "low": low,
        "high": high,
        "auroc": mean(point.area for point in points),
        "seconds": mean(point.seconds for point in points),
    }


def examples_of(check: str, side: int, folder: Path, seed: int) -> list[Example]:
    """Draw and write the labelled pictures of a seed."""
    folder.mkdir(parents=True)
    found = []
    drawn = fresh(check, TRAIN_SEED + 100 * seed, [(side, side, max(SIZES))])
    for number, (image, label, _) in enumerate(drawn):
        path = folder / f"{number:04}.png"
        image.save(path)
        found.append(Example(key=f"{seed}/{number}", path=path, label=label, cluster=path.name))
    return found


def fitted(
    base: BaseModel,
    question: Question,
    recipe: Recipe,
    examples: Sequence[Example],
    unseen: Labelled,
    *,
    seed: int,
    work: Path,
) -> Point:
    """Train on the examples and score the unseen pictures with the adapter."""
    held = [example for at, example in enumerate(examples) if at % HELD_OUT == 0]
    learnt = [example for at, example in enumerate(examples) if at % HELD_OUT]
    trained = fit(base, question, learnt, held, recipe, seed=seed, work=work / "fit", on_progress=lambda _: None)
    card = AdapterCard(
        name="learning-curve", question=question, base_model="pocket", base_revision=base.checkpoint.revision
    )
    digest = trained.write(work / "adapter", card).weights_sha256
    measured = measure(factory.scorer(base, question, work / "adapter"), unseen)
    base.release(digest)
    return point_of(measured, labels=len(examples), seconds=float(trained.figures["seconds"]))


def point_of(measured: Measured, *, labels: int, seconds: float) -> Point:
    """Return the accuracy of one run over the unseen pictures."""
    right = tuple(truth == answer for truth, answer in zip(measured.truth, measured.answers(), strict=True))
    area = float(roc_auc_score(measured.flagged_truth, measured.margins))
    return Point(labels=labels, right=right, accuracy=mean(right), area=area, seconds=seconds)


def _plot(zero: Point, points: Sequence[Point]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=120)
    middle = [mean(point.accuracy for point in points if point.labels == n) for n in SIZES]
    intervals = [wilson(sum(sum(p.right) for p in points if p.labels == n), N_UNSEEN * len(SEEDS)) for n in SIZES]
    axes.fill_between(SIZES, *zip(*intervals, strict=True), alpha=0.2, label="Wilson 95 %, all seeds")
    axes.plot(SIZES, middle, marker="o", label="mean of three seeds")
    axes.scatter([p.labels for p in points], [p.accuracy for p in points], s=12, color="black", label="one seed")
    axes.axhline(zero.accuracy, linestyle="--", color="grey", label=f"zero-shot ({zero.accuracy:.2f})")
    axes.set_xscale("log")
    axes.set_xticks(SIZES, [str(n) for n in SIZES])
    axes.minorticks_off()
    axes.set_xlabel("labels")
    axes.set_ylabel("accuracy on unseen pictures, three labels")
    axes.set_ylim(0.2, 1.0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(PLOT)
    plt.close(figure)
