"""The base alone and the order of its menu: every order, as it is, with a blank image's logits taken off, and rotated.

On the checks with generated pictures, and on the questions that the pocket base was trained on, whose answers it knows.
At most ORDERS orders of a menu, drawn once. "Blank": the logits of an image of the mean colour and the same size.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, permutations
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from bench.pocket import fresh, kind_of
from bench.report import Report
from scanfleet.models import factory
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.pocket.scenes import pretraining
from scanfleet.models.scoring.rotated import rotations
from scanfleet.models.types import Question

ARMS = ("own_order", "blank", "rotated")
ORDERS = 12  # of a menu
PICTURES = 300  # of a check, of 128 px
PACK = 32  # of one forward
SEED, OWN_SEED = 9_300_000, 9_400_000  # no part of the model was fitted to these pictures
OWN = "Is there text in this image?"  # the question that the base answers best

Order = tuple[str, ...]
Logits = NDArray[np.float64]  # [pictures, labels], in the question's own order


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Accuracy and AUROC of every order, and the share of pictures on which two orders agree."""

    accuracy: Sequence[float]
    area: Sequence[float]
    agree: float

    def figures(self, *, flags: bool) -> dict[str, float]:
        found = {
            "lowest": min(self.accuracy),
            "mean": mean(self.accuracy),
            "highest": max(self.accuracy),
            "agree": self.agree,
        }
        area = {"auroc_lowest": min(self.area), "auroc_highest": max(self.area)} if flags else {}
        return {name: round(value, 3) for name, value in (found | area).items()}


def run() -> Report:
    torch.set_num_threads(1)
    base = load_base("pocket", precision="fp32")
    figures = {}
    for name, question, pictures, truth in [*_checks(), _own()]:
        for arm, answers in _measure(base, question, pictures, truth).items():
            figures[f"{name}_{arm}"] = answers.figures(flags=bool(question.flags))
    return Report(name="menu-order", figures=figures, notes=("accuracy over the orders of one menu",))


def _checks() -> Iterator[tuple[str, Question, list[Image.Image], NDArray[np.int64]]]:
    for check, question in QUESTIONS.items():
        drawn = list(fresh(check, SEED, [(128, 128, PICTURES)]))
        yield check, question, [image for image, _, _ in drawn], np.array([label for _, label, _ in drawn])


def _own() -> tuple[str, Question, list[Image.Image], NDArray[np.int64]]:
    """The question of its own training that the base answers best, in one wording of its options."""
    images: list[Image.Image] = []
    truth: list[int] = []
    options: tuple[str, ...] = ()
    for index in range(20 * PICTURES):
        scene = pretraining.draw(OWN_SEED, index, 128, 128)
        for asked in scene.questions:
            if kind_of(asked.prompt) == OWN and len(images) < PICTURES:
                options = options or tuple(sorted(asked.options))
                images.append(scene.image)
                truth.append(options.index(asked.options[asked.answer]))
                break
        if len(images) == PICTURES:
            break
    return "own_question", Question(name="own", prompt=OWN, labels=options, flags=frozenset()), images, np.array(truth)


def _measure(
    base: BaseModel, question: Question, pictures: Sequence[Image.Image], truth: NDArray[np.int64]
) -> dict[str, Answers]:
    colour = tuple(round(255 * value) for value in base.processor.reader.image_processor.image_mean)
    blank = [Image.new("RGB", pictures[0].size, colour)]

    @cache
    def read(order: Order) -> tuple[Logits, Logits]:
        scorer = factory.scorer(base, replace(question, labels=order))
        back = [order.index(label) for label in question.labels]
        rows = [scorer.prepare(image) for image in (*pictures, *blank)]
        packs = [scorer.score(rows[at : at + PACK]) for at in range(0, len(rows), PACK)]
        logits = np.array([reading.logits for pack in packs for reading in pack])[:, back]
        return logits[:-1], logits[-1:]

    def rotated(order: Order) -> Logits:
        each = [read(turned)[0] for turned in rotations(replace(question, labels=order))]
        return np.mean([logits - np.logaddexp.reduce(logits, axis=1, keepdims=True) for logits in each], axis=0)

    orders = list(permutations(question.labels))
    if len(orders) > ORDERS:
        orders = random.Random(SEED).sample(orders, ORDERS)
    arms = {
        "own_order": [read(order)[0] for order in orders],
        "blank": [read(order)[0] - read(order)[1] for order in orders],
        "rotated": [rotated(order) for order in orders],
    }
    return {arm: _answers(question, truth, arms[arm]) for arm in ARMS}


def _answers(question: Question, truth: NDArray[np.int64], orders: Sequence[Logits]) -> Answers:
    said = [logits.argmax(axis=1) for logits in orders]
    flags = np.array([label in question.flags for label in question.labels])
    area = [0.0]
    if flags.any():
        margins = [np.logaddexp.reduce(each[:, flags], 1) - np.logaddexp.reduce(each[:, ~flags], 1) for each in orders]
        area = [float(roc_auc_score(flags[truth], each)) for each in margins]
    return Answers(
        accuracy=[float((each == truth).mean()) for each in said],
        area=area,
        agree=mean(float((one == other).mean()) for one, other in combinations(said, 2)),
    )
