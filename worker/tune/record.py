"""A tuning as plain JSON: what was tried, the front on held-out images, and what was chosen. Everything is drawn from
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.training.types import Example
from models.types import Question
from worker.tune.judge import Judged, Row
from worker.tune.objective import Objective
from worker.tune.parts import Parts, counts
from worker.tune.search import Searched, Tried


def record_of(
    *, objective: Objective, limit: float, seed: int, searched: Searched, judged: Judged, standing: Tried
) -> dict[str, Any]:
    """standing: the check as it stands on the search part."""
    return {
        "objective": {"name": objective.name, "at_fpr": objective.at_fpr},
        "max_cost": limit,
        "seed": seed,
        "trials": len(searched.tried),
        "turned_down": searched.turned_down,
        "stopped": searched.stopped,
        "standing": _row(judged.standing) | {"searched": {"value": standing.value, "cost": standing.cost}},
        "larger": _row(judged.larger),
        "front": [_row(row) for row in judged.front],
        "chosen": judged.chosen,
        "reason": judged.reason,
        "tried": [
            {"setting": one.setting.record(), "words": one.setting.in_words(), "value": one.value, "cost": one.cost}
            for one in searched.tried
        ],
    }


def images_record(
    parts: Parts, examples: Sequence[Example], question: Question, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """How many images of which label each part has. left_out: uri -> why."""
    named = {"search": parts.search, "held_out": parts.held_out}
    return {
        name: {
            "n": len(images),
            "groups": len({examples[at].cluster for at in images}),
            "labels": counts(examples, images, question),
        }
        for name, images in named.items()
    } | {"left_out": dict(left_out)}


def _row(row: Row) -> dict[str, Any]:
    return {
        "setting": row.setting.record(),
        "words": row.setting.in_words(),
        "cost": row.cost,
        "again": row.again,
        "value": row.value.record(),
        "change": row.change.record(),
        "searched": None if row.searched is None else {"value": row.searched.value, "cost": row.searched.cost},
    }
