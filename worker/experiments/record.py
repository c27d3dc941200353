"""The report of an experiment as plain JSON, from its cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanfleet.checks.experiment import TRAINED, Experiment
from scanfleet.models.types import Question
from scanfleet.worker.experiments.data import Split
from scanfleet.worker.experiments.figures import Bootstrap, Truth, confusion, reliability, statistics

Odds = NDArray[np.float64]
Place = tuple[str, int]  # arm, labels


def record_of(
    experiment: Experiment, question: Question, split: Split, cells: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the report. cells: {"arm", "seed", "size", "state", "record"}."""
    answers, costs = _gathered(split, cells)
    truth = truth_of(split, question)
    boot, figures = Bootstrap(truth), statistics(truth)
    against = experiment.against or experiment.arm[0].name
    arms = {arm.name: arm for arm in experiment.arm}
    rows: list[dict[str, Any]] = []
    for (arm, size), odds in answers.items():
        wanted = arms[arm].against or against
        other = _other(answers, wanted, size)
        row = {"arm": arm, "kind": arms[arm].kind, "labels": size, "seeds": len(odds)}
        row |= {"figures": {name: boot.interval([odds], each) for name, each in figures.items()}}
        differs = other is not None and arm != wanted
        row["compared_with"] = wanted if differs else None
        row["against"] = boot.interval([odds, other], figures["accuracy"]) if differs and other else None
        row |= {"confusion": confusion(odds, truth), "reliability": reliability(odds, truth)}
        row |= {"recall_by_label": _by_label(boot, odds, truth, question), "costs": costs[arm, size]}
        row["unseen_styles"] = _unseen(boot, odds, truth, split)
        rows.append(row)
    left_out = [
        {"arm": cell["arm"], "seed": cell["seed"], "labels": cell["size"], "reason": cell["record"]["reason"]}
        for cell in cells
        if cell["state"] == "left_out"
    ]
    about = {"name": experiment.name, "about": experiment.about, "check": question.name, "model": experiment.model}
    parts = {"train": len(split.train), "test": len(split.test), "unseen_styles": len(split.unseen)}
    kinds = {"trained": sorted(TRAINED), "labels": list(question.labels), "seeds": list(experiment.seeds)}
    order = [arm.name for arm in experiment.arm]
    rows.sort(key=lambda row: (order.index(str(row["arm"])), row["labels"]))
    return about | kinds | {"images": parts, "compared_with": against, "rows": rows, "left_out": left_out}


def _other(answers: dict[Place, list[Odds]], arm: str, size: int) -> list[Odds] | None:
    """Return an arm's answers with as many labels, or with none, or with the only number that it has."""
    own = [place for place in answers if place[0] == arm]
    for place in ((arm, size), (arm, 0), *(own if len(own) == 1 else ())):
        if place in answers:
            return answers[place]
    return None


def truth_of(split: Split, question: Question) -> Truth:
    clusters = {name: at for at, name in enumerate(dict.fromkeys(one.cluster for one in split.test))}
    return Truth(
        labels=np.array([one.label for one in split.test]),
        clusters=np.array([clusters[one.cluster] for one in split.test]),
        flags=np.array([label in question.flags for label in question.labels]),
    )


def _gathered(
    split: Split, cells: Sequence[dict[str, Any]]
) -> tuple[dict[Place, list[Odds]], dict[Place, dict[str, float]]]:
    """Return [images, labels] of each seed, and the mean costs, by arm and number of labels."""
    answers: dict[Place, list[Odds]] = defaultdict(list)
    costs: dict[Place, list[dict[str, float]]] = defaultdict(list)
    for cell in sorted(cells, key=lambda one: one["seed"]):
        if cell["state"] == "done":
            by_key = cell["record"]["log_odds"]
            answers[cell["arm"], cell["size"]].append(np.array([by_key[one.key] for one in split.test]))
            costs[cell["arm"], cell["size"]].append(cell["record"]["costs"])
    means = {place: {name: round(float(np.mean([one[name] for one in each])), 3) for name in each[0]}
             for place, each in costs.items()}  # fmt: skip
    return answers, means


def _by_label(boot: Bootstrap, odds: list[Odds], truth: Truth, question: Question) -> dict[str, Any]:
    def recall(label: int) -> dict[str, Any]:
        mine = truth.labels == label
        return boot.interval([odds], lambda one, w: _mean((one.argmax(1) == label)[mine], w[mine]))

    return {name: recall(at) for at, name in enumerate(question.labels)}


def _unseen(boot: Bootstrap, odds: list[Odds], truth: Truth, split: Split) -> dict[str, Any] | None:
    """Return the share of right answers on flagging images in styles that were trained on, less that in the others."""
    unseen = np.array([one.key in split.unseen for one in split.test])
    if not unseen.any():
        return None
    labels = set(truth.labels[unseen])
    known = np.isin(truth.labels, list(labels)) & ~unseen

    def drop(one: Odds, w: NDArray[np.int64]) -> float:
        right = one.argmax(1) == truth.labels
        return _mean(right[known], w[known]) - _mean(right[unseen], w[unseen])

    return {"n": int(unseen.sum()), "drop": boot.interval([odds], drop)}


def _mean(hits: NDArray[np.bool_], weights: NDArray[np.int64]) -> float:
    total = weights.sum()
    return float((hits * weights).sum() / total) if total else float("nan")
