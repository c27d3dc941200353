"""Models of one label set: one trained beside held-out splits, one trained on all labels, and one for each fold.

Every fit is the one of a training worker: the built-in model, its cheapest recipe, and the worker's own validation
part. All models score the same unseen pictures, so that any number of label sets can be drawn from those afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.pocket import fresh, measure
from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.network.base import BaseModel
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.recipes import recipes_for
from scanfleet.models.training.data.types import Example
from scanfleet.models.training.fit import fit
from scanfleet.worker.training.snapshot import with_validation

CHECK, SIDE = "overlay", 128
LABELS, TRAIN_SHARE, FOLDS = 400, 0.6, 5
UNSEEN = 1500
LABEL_SEED, UNSEEN_SEED = 7_600_000, 7_700_000  # of the pictures; the pocket model was trained on none of them


class Answers(NamedTuple):
    """Of one model on the unseen pictures: margins in logits and index of the label, both `[pictures]`."""

    margins: NDArray[np.float64]
    answers: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Family:
    """truth: `[pictures]` label index. split: trained on TRAIN_SHARE of the labels. whole: on all. folds: on all but
    one fold. seconds: of the fits, in this order."""

    truth: NDArray[np.int64]
    split: Answers
    whole: Answers
    folds: tuple[Answers, ...]
    seconds: tuple[float, ...]

    @property
    def positive(self) -> NDArray[np.bool_]:
        return flags_of(self.truth)


def flags_of(truth: NDArray[np.int64]) -> NDArray[np.bool_]:
    question = QUESTIONS[CHECK]
    return np.isin(truth, [at for at, label in enumerate(question.labels) if label in question.flags])


def family(base: BaseModel, seed: int, work: Path) -> Family:
    """Train and score the models of one label set. seed: of its pictures, order and first weights."""
    unseen = list(fresh(CHECK, UNSEEN_SEED + 100 * seed, [(SIDE, SIDE, UNSEEN)]))
    examples = _labelled(seed, work / "images")
    parts = [
        examples[: round(TRAIN_SHARE * LABELS)],
        examples,
        *([each for at, each in enumerate(examples) if at % FOLDS != fold] for fold in range(FOLDS)),
    ]
    found, seconds = [], []
    truth: tuple[int, ...] = ()
    for number, part in enumerate(parts):
        folder = work / str(number)
        learn, held = with_validation(part)
        recipe = recipes_for(base)[0]
        trained = fit(
            base, QUESTIONS[CHECK], learn, held, recipe, seed=seed, work=folder / "fit", on_progress=lambda _: None
        )
        card = AdapterCard(
            name="folds", question=QUESTIONS[CHECK], base_model="pocket", base_revision=base.checkpoint.revision
        )
        digest = trained.write(folder / "adapter", card).weights_sha256
        seen = measure(factory.scorer(base, QUESTIONS[CHECK], folder / "adapter"), unseen)
        base.release(digest)
        truth = seen.truth
        found.append(Answers(np.array(seen.margins), np.array(seen.answers())))
        seconds.append(float(trained.figures["seconds"]))
    split, whole, *folds = found
    return Family(truth=np.array(truth), split=split, whole=whole, folds=tuple(folds), seconds=tuple(seconds))


def _labelled(seed: int, folder: Path) -> Sequence[Example]:
    folder.mkdir(parents=True)
    found = []
    drawn = fresh(CHECK, LABEL_SEED + 100 * seed, [(SIDE, SIDE, LABELS)])
    for number, (image, label, _) in enumerate(drawn):
        path = folder / f"{number:04}.png"
        image.save(path)
        found.append(Example(key=f"{seed}/{number}", path=path, label=label, cluster=f"{seed}-{path.name}"))
    return found
