"""Scans of one pass: several checks over the same listing, whose images a worker reads once for all of them.

The scans are otherwise independent. A worker answers a batch, and then the batches of the other scans that hold the
same images; code that knows no passes answers each of them by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.db.clock import backoff_over
from scanfleet.db.engine import now
from scanfleet.db.leases import claimable
from scanfleet.db.scans.source_breaker import on_hold
from scanfleet.db.tables import Batch, Image, Scan


@dataclass(frozen=True, kw_only=True)
class Sibling:
    """Another scan of a pass, with its batches that wait for the same images."""

    scan_id: str
    check_id: int
    created_at: datetime
    batches: tuple[int, ...]


def siblings(
    connection: sa.Connection, *, pass_id: str, scan_id: str, model: str, identities: Collection[str]
) -> list[Sibling]:
    """Return the other running scans of a pass for which some of these images are still to be read."""
    at = now(connection)
    scan_ready = (Scan.state == "running", backoff_over(Scan.not_before, at), Scan.model == model, ~on_hold())
    query = (
        sa.select(Scan.id, Scan.check_id, Scan.created_at, Batch.id.label("batch_id"))
        .join(Image, Image.scan_id == Scan.id)
        .join(Batch, Batch.id == Image.batch_id)
        .where(Scan.pass_id == pass_id, Scan.id != scan_id, *scan_ready)
        .where(Image.identity.in_(list(identities)), Image.state == "pending")
        .where(claimable(Batch, at), ~Batch.suspect)
        .distinct()
        .order_by(Batch.id)
    )
    found: dict[str, list[sa.Row[tuple[str, int, datetime, int]]]] = {}
    for row in connection.execute(query):
        found.setdefault(row.id, []).append(row)
    return [
        Sibling(
            scan_id=scan,
            check_id=rows[0].check_id,
            created_at=rows[0].created_at,
            batches=tuple(row.batch_id for row in rows),
        )
        for scan, rows in found.items()
    ]


@cache  # making it takes longer than the query
def read_elsewhere() -> sa.ColumnElement[bool]:
    """Whether a batch's images are being read for another scan of its pass. For a query of Batch and Scan.

    The worker that reads them goes on to this batch. Its first image speaks for the others: a listing is written to all
    scans of a pass in the same portions. A batch that is read twice after all costs time alone.
    """
    mine, theirs = orm.aliased(Image), orm.aliased(Image)
    scan, batch = orm.aliased(Scan), orm.aliased(Batch)
    first = sa.select(mine.identity).where(mine.batch_id == Batch.id).order_by(mine.id).limit(1)
    under_way = sa.exists().where(
        scan.pass_id == Scan.pass_id,
        scan.id != Scan.id,
        theirs.scan_id == scan.id,
        theirs.identity == first.correlate(Batch).scalar_subquery(),
        batch.id == theirs.batch_id,
        batch.state == "leased",
    )
    return sa.and_(Scan.pass_id.is_not(None), under_way.correlate(Batch, Scan))
