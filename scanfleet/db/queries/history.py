"""Everything that was ever said of one image: answers of all scans and rescans, failures, and people's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from scanfleet.db.labels.history import LabelFilter, labels_of_contents
from scanfleet.db.tables import Adapter, CheckRow, Failure, Image, Scan, ScorerRow, Verdict

MAX_EVENTS = 10_000  # of each kind


@dataclass(frozen=True, kw_only=True)
class Event:
    """What was said at one time.

    image_id, scan: of the image that the answer is shown for; by_scan: that gave it, perhaps a rescan. stands: it is
    what the image's result says now. until: when a later answer took its place. Of a failure only the last one is kept.
    """

    at: datetime
    kind: Literal["answer", "failure", "label"]
    check: str
    label: str | None = None
    stands: bool = False
    until: datetime | None = None
    model: str | None = None
    scan: str | None = None
    by_scan: str | None = None
    image_id: int | None = None
    content_sha256: str | None = None
    decision: str | None = None
    score: float | None = None
    margin: float | None = None  # logits
    adapter: str | None = None  # SHA-256 of its weights
    adapter_id: int | None = None
    mode: str | None = None
    reused: bool = False
    stage: str | None = None  # of a failure
    reason: str | None = None
    detail: str | None = None
    who: str | None = None  # gave the label
    label_state: str | None = None  # counts, conflict, replaced, undone


def history_of(connection: sa.Connection, uri: str) -> list[Event] | None:
    """Return the events of the images with this uri, the oldest first; None where no scan holds it."""
    if connection.execute(sa.select(Image.id).where(Image.uri == uri).limit(1)).first() is None:
        return None
    answers = _answers(connection, uri)
    contents = {answer.content_sha256 for answer in answers if answer.content_sha256}
    checks = {answer.check for answer in answers}
    events = [*answers, *_failures(connection, uri), *_labels(connection, contents, checks)]
    return sorted(events, key=lambda event: event.at)


def _of(uri: str, *columns: Any) -> tuple[sa.Select[Any], Any]:
    """Return a query of the images of a uri, and the image that each of them is shown as: its own, or a renewed one."""
    shown, scan = aliased(Image), aliased(Scan)
    query = (
        sa.select(*columns, CheckRow.name.label("check"), scan.model, shown.id.label("image_id"), shown.verdict_id)
        .add_columns(shown.scan_id.label("scan"), Image.scan_id.label("by_scan"))
        .select_from(Image)
        .join(shown, shown.id == sa.func.coalesce(Image.rescan_of, Image.id))
        .join(scan, scan.id == shown.scan_id)
        .join(CheckRow, CheckRow.id == scan.check_id)
        .where(Image.uri == uri)
        .limit(MAX_EVENTS)
    )
    return query, shown


def _answers(connection: sa.Connection, uri: str) -> list[Event]:
    columns = (
        *(Verdict.id, Verdict.created_at, Verdict.label, Verdict.decision, Verdict.score, Verdict.margin),
        *(Verdict.content_sha256, Verdict.reused_from, ScorerRow.mode, ScorerRow.adapter_id, Adapter.weights_sha256),
    )
    query, _ = _of(uri, *columns)
    query = (
        query.join(Verdict, Verdict.image_id == Image.id)
        .join(ScorerRow, ScorerRow.id == Verdict.scorer_id)
        .outerjoin(Adapter, Adapter.id == ScorerRow.adapter_id)
        .order_by(Verdict.created_at, Verdict.id)
    )
    found = [
        Event(
            at=row.created_at,
            kind="answer",
            check=row.check,
            model=row.model,
            scan=row.scan,
            by_scan=row.by_scan,
            image_id=row.image_id,
            content_sha256=row.content_sha256,
            label=row.label,
            decision=row.decision,
            score=row.score,
            margin=row.margin,
            adapter=row.weights_sha256,
            adapter_id=row.adapter_id,
            mode=row.mode,
            reused=row.reused_from is not None,
            stands=row.id == row.verdict_id,
        )
        for row in connection.execute(query)
    ]
    return _until_the_next(found)


def _until_the_next(answers: Sequence[Event]) -> list[Event]:
    """Say of each answer when the next one of its image came. answers: the oldest first."""
    following: dict[int | None, datetime] = {}
    found: list[Event] = []
    for answer in reversed(answers):
        found.append(replace(answer, until=following.get(answer.image_id)))
        following[answer.image_id] = answer.at
    return found[::-1]


def _failures(connection: sa.Connection, uri: str) -> list[Event]:
    query, shown = _of(uri, Failure.at, Failure.stage, Failure.reason, Failure.detail)
    query = query.add_columns((shown.id == Image.id).label("own"))
    return [
        Event(
            at=row.at,
            kind="failure",
            check=row.check,
            model=row.model,
            scan=row.scan,
            by_scan=row.by_scan,
            image_id=row.image_id,
            stage=row.stage,
            reason=row.reason,
            detail=row.detail,
            stands=bool(row.own),  # where a rescan failed, the answer before stands
        )
        for row in connection.execute(query.join(Failure, Failure.image_id == Image.id))
    ]


def _labels(connection: sa.Connection, contents: set[str], checks: set[str]) -> list[Event]:
    return [
        Event(
            at=line.at,
            kind="label",
            check=line.check_name,
            label=line.label,
            content_sha256=line.content_sha256,
            who=line.who,
            label_state=line.state,
            stands=line.state == "counts",
        )
        for check in sorted(checks)
        for line in labels_of_contents(connection, LabelFilter(check_name=check), sorted(contents))
    ]
