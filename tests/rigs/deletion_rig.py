"""What must hold of a ledger that something was deleted from: counts equal rows, and nothing points to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.db.engine import reading, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.tables import Batch, Failure, Image, Scan, Verdict
from tests.rigs.rescan_rig import Archive, Margins

_POINTERS: tuple[tuple[Any, Any], ...] = (
    (Image.verdict_id, Verdict), (Image.replaced, Verdict), (Image.rescan_of, Image), (Verdict.reused_from, Verdict),
    (Verdict.image_id, Image), (Verdict.scan_id, Scan), (Failure.image_id, Image), (Image.batch_id, Batch),
    (Image.scan_id, Scan), (Batch.scan_id, Scan), (Failure.scan_id, Scan), (Scan.rescan_of, Scan),
)  # fmt: skip


def faults(engine: sa.Engine) -> list[str]:
    """Return what is wrong, in words."""
    with reading(engine) as connection:
        return [*_dangling(connection), *_miscounted(connection), *_unanswered(connection)]


def _dangling(connection: sa.Connection) -> Iterator[str]:
    for column, table in _POINTERS:
        there = orm.aliased(table)
        lost = sa.select(sa.func.count()).where(column.is_not(None), ~sa.exists().where(there.id == column))
        if n := connection.execute(lost).scalar_one():
            yield f"{n} of {column} point to nothing"


def _miscounted(connection: sa.Connection) -> Iterator[str]:
    own, answer = orm.aliased(Verdict), orm.aliased(Verdict)
    of_batch = sa.select(sa.func.count()).select_from(Image).where(Image.batch_id == Batch.id)
    answered = of_batch.join(answer, answer.id == Image.verdict_id)
    written = of_batch.join(own, own.image_id == Image.id)
    counted = {
        "n_images": of_batch,
        "n_verdicts": of_batch.where(Image.state == "verdict"),
        "n_failures": of_batch.where(Image.state == "failed"),
        "n_flagged": answered.where(answer.decision == "flag"),
        "n_review": answered.where(answer.decision == "review"),
        "n_reused": written.where(own.reused_from.is_not(None)),
    }
    for name, query in counted.items():
        column, n = Batch.__table__.c[name], query.correlate(Batch).scalar_subquery()
        for row in connection.execute(sa.select(Batch.id, column.label("said"), n.label("are")).where(column != n)):
            yield f"batch {row.id}: {name} is {row.said}, its images say {row.are}"
    pending = of_batch.where(Image.state == "pending").correlate(Batch).scalar_subquery()
    ended = sa.select(Batch.id).where(Batch.state.in_(("done", "cancelled")), pending > 0)
    yield from (f"batch {row.id} has ended with pending images" for row in connection.execute(ended))
    hollow = sa.select(Batch.id).where(of_batch.correlate(Batch).scalar_subquery() == 0)
    yield from (f"batch {row.id} holds no image" for row in connection.execute(hollow))


def _unanswered(connection: sa.Connection) -> Iterator[str]:
    query = sa.select(Image.id).where((Image.state == "verdict") != Image.verdict_id.is_not(None))
    yield from (f"image {row.id} has a state that its answer contradicts" for row in connection.execute(query))


def copy_answers(held: Archive, source: str, margins: Margins) -> None:
    """Settle all ready batches with the answers of another scan over the same images, as copies."""
    first = {uri: row.verdict_id for uri, row in held.images(source).items()}
    while claim := held.claim():
        known = held.outcome(claim, margins)
        uris = {image.id: image.uri for image in claim.images}
        copies = [replace(each, reused_from=first[uris[each.image_id]]) for each in known.verdicts]
        with transaction(held.engine) as connection:
            verdicts.write(connection, claim, replace(known, verdicts=copies))


def rows(engine: sa.Engine, table: Any, *where: sa.ColumnElement[bool]) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(sa.select(*table.__table__.c).where(*where)))
