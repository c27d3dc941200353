"""G3: no part of the golden set loses while the whole gains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scanfleet.models.adapters.metrics import wilson
from scanfleet.models.promotion.conditions import discordant
from scanfleet.models.promotion.significance import holm, loss_p_value
from scanfleet.models.promotion.types import Bools, GateResult, Limits, Paired

LABEL = "label"  # dimension of the true label


@dataclass(frozen=True, kw_only=True)
class _Slice:
    name: str
    figures: dict[str, Any]
    p_value: float
    below_floor: bool


def g3_slices(paired: Paired, limits: Limits) -> GateResult:
    """G3: no slice loses.

    Fails where the challenger loses more than chance explains (one-sided exact test over clusters, Holm over all
    slices), or where its recall falls below the lower Wilson bound of the champion's.
    """
    champion, challenger = paired.right_at(paired.champion, paired.reference), paired.right(paired.challenger)
    found = [
        _measure(paired, name, members, champion, challenger, limits)
        for name, members in _members(paired)
        if members.sum() >= limits.least_slice
    ]
    adjusted = holm([part.p_value for part in found])
    lost = [part for part, p_value in zip(found, adjusted, strict=True) if p_value < limits.level]
    below = [part for part in found if part.below_floor]
    figures = {
        part.name: part.figures | {"p_value": part.p_value, "p_holm": p_value, "below_floor": part.below_floor}
        for part, p_value in zip(found, adjusted, strict=True)
    }
    wrong = [f"{part.name}: {part.figures['lost']} newly wrong, {part.figures['won']} newly right" for part in lost]
    wrong += [
        f"{part.name}: recall {part.figures['recall']:.3f}, floor {part.figures['floor']:.3f}"
        for part in below
        if part not in lost
    ]
    words = "; ".join(wrong) or f"no loss in any of {len(found)} slices"
    return GateResult(gate="G3", title="slices", outcome="fail" if wrong else "pass", words=words, figures=figures)


def _members(paired: Paired) -> Iterator[tuple[str, Bools]]:
    """Yield the name of each slice and its `[images]` bool membership."""
    # The base alone has learnt from no labels how to spread its answers over them.
    if paired.flags or paired.champion.learnt:
        for index, label in enumerate(paired.question.labels):
            yield f"{LABEL}={label}", np.asarray(paired.truth == index)
    for dimension, values in paired.slices.items():
        column = np.asarray([value or "" for value in values], dtype=np.str_)
        for value in np.unique(column):
            if value:
                yield f"{dimension}={value}", np.asarray(column == value)


def _measure(paired: Paired, name: str, members: Bools, champion: Bools, challenger: Bools, limits: Limits) -> _Slice:
    counts = discordant(paired, champion, challenger, members)
    n = int(members.sum())
    figures: dict[str, Any] = {
        "n": n,
        "champion_accuracy": float(champion[members].mean()),
        "accuracy": float(challenger[members].mean()),
        "accuracy_interval": list(wilson(int(challenger[members].sum()), n)),
        **counts,
    }
    wanted = members & paired.positive if paired.flags else members
    n_wanted, below = int(wanted.sum()), False
    if n_wanted >= limits.least_kind:
        hits, hits_before = int(challenger[wanted].sum()), int(champion[wanted].sum())
        floor = wilson(hits_before, n_wanted)[0]
        below = hits / n_wanted < floor
        figures |= {
            "positives": n_wanted,
            "champion_recall": hits_before / n_wanted,
            "recall": hits / n_wanted,
            "recall_interval": list(wilson(hits, n_wanted)),
            "floor": floor,
        }
    p_value = loss_p_value(counts["clusters_won"], counts["clusters_lost"])
    return _Slice(name=name, figures=figures, p_value=p_value, below_floor=below)
