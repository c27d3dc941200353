"""Families of linear probes on the built-in base's features: many in seconds, where whole trainings take minutes each.

The features are the mean of an image's visual tokens, and the logits of its labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bench.pocket import fresh
from bench.training.families import CHECK, FOLDS, LABELS, SIDE, TRAIN_SHARE, UNSEEN, Answers, Family, flags_of
from scanfleet.models import factory
from scanfleet.models.network.base import BaseModel
from scanfleet.models.pocket.questions import QUESTIONS

PICTURES, SEED = 3000, 7_800_000  # the pocket model was trained on none of them
PACK = 32  # images of one forward
STRENGTH = 0.03  # inverse of the penalty: of .003, .03 and 1 the best on unseen pictures
Floats = NDArray[np.float64]


def probe_families(base: BaseModel, n: int) -> Iterator[Family]:
    """Yield n families, each of other pictures for labels and for the rest."""
    seen, truth = _features(base)
    positive = flags_of(truth)
    for seed in range(n):
        order = np.random.default_rng(seed).permutation(PICTURES)
        labels, unseen = order[:LABELS], order[LABELS : LABELS + UNSEEN]
        fold = np.arange(LABELS) % FOLDS
        parts = [labels[: round(TRAIN_SHARE * LABELS)], labels, *(labels[fold != at] for at in range(FOLDS))]
        split, whole, *folds = (_answers(seen, positive, part, unseen) for part in parts)
        yield Family(truth=truth[unseen], split=split, whole=whole, folds=tuple(folds), seconds=())


def _answers(seen: Floats, positive: NDArray[np.bool_], part: NDArray[np.int64], unseen: NDArray[np.int64]) -> Answers:
    probe = LogisticRegression(C=STRENGTH, max_iter=300).fit(seen[part], positive[part])
    margins = probe.decision_function(seen[unseen])
    return Answers(margins, np.where(margins >= 0, 0, 1))


def _features(base: BaseModel) -> tuple[Floats, NDArray[np.int64]]:
    """([pictures, features], standardised; [pictures] label indices)"""
    scorer = factory.scorer(base, QUESTIONS[CHECK])
    scorer.keep_features = True
    rows, truth, waiting = [], [], []
    for image, label, _ in fresh(CHECK, SEED, [(SIDE, SIDE, PICTURES)]):
        truth.append(label)
        waiting.append(scorer.prepare(image))
        if len(waiting) == PACK or len(truth) == PICTURES:
            rows += [np.concatenate([each.features, each.logits]) for each in scorer.score(waiting)]
            waiting = []
    return StandardScaler().fit_transform(np.array(rows)), np.array(truth)
