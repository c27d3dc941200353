"""What is known of an image beside its answer (a manifest's truth, a person's label), and whether it contradicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from scanfleet.db.labels.labels import iter_current_labels

Fault = Literal["missed", "false alarm", "wrong label"]
FAULTS: tuple[Fault, ...] = ("missed", "false alarm", "wrong label")  # the worst first


@dataclass(frozen=True, kw_only=True)
class Said:
    """The label of the ledger that stands. drawn: why a person was asked about the image."""

    label: str
    who: str
    drawn: str | None


def labels_by_content(engine: sa.Engine, check: str) -> dict[str, Said]:
    """Return the labels on which people agree, by the SHA-256 of the image."""
    return {
        one.content_sha256: Said(label=one.label, who=one.who, drawn=one.drawn)
        for one in iter_current_labels(engine, check)
    }


def fault(truth: object, *, label: str | None, decision: str | None, flags: tuple[str, ...]) -> Fault | None:
    """Say how an answer contradicts a true label. A review contradicts nothing: it is left to a person.

    >>> fault("gun", label="none", decision="clear", flags=("gun",))
    'missed'
    >>> fault("gun", label="knife", decision="flag", flags=("gun", "knife"))
    'wrong label'
    """
    if decision == "review":
        return None
    if decision == "clear" and truth in flags:
        return "missed"
    if decision == "flag" and truth not in flags:
        return "false alarm"
    return "wrong label" if truth != label else None


def worst(faults: Iterable[Fault | None]) -> Fault | None:
    found = [each for each in faults if each is not None]
    return min(found, key=FAULTS.index) if found else None
