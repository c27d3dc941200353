"""Which batches to knock for. A knock is a message that may be lost or doubled; these marks keep their number sane."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import sqlalchemy as sa

from scanfleet.db import leases
from scanfleet.db.clock import backoff_over
from scanfleet.db.engine import now
from scanfleet.db.scans.source_breaker import on_hold
from scanfleet.db.tables import Batch, Scan

mark_notified = partial(leases.mark_notified, table=Batch)


def due_for_notification(
    connection: sa.Connection, *, renotify_seconds: float, max_outstanding: int
) -> list[tuple[int, str]]:
    """Ready batches that nobody rang for lately, as (batch id, queue), and marks them as rung.

    At most so many that the rings under way stay below `max_outstanding`. Of a scan whose store is away: one, as a
    probe, and none while one is out; those come on top, or a busy scan would keep others on hold.
    """
    at = now(connection)
    lately = leases.recently_notified(Batch, renotify_seconds, at)
    room = max(max_outstanding - _outstanding(connection, lately), 0)
    ready = (leases.claimable(Batch, at), Scan.state == "running", backoff_over(Scan.not_before, at))
    unnotified = sa.or_(Batch.notified_at.is_(None), ~lately)
    query = (
        sa.select(Batch.id, Batch.queue)
        .join(Scan, Scan.id == Batch.scan_id)
        .where(*ready, unnotified, ~on_hold())
        .order_by(Batch.id)
        .limit(room)
        .with_for_update(skip_locked=True, key_share=True, of=Batch)
    )
    found = [(row.id, row.queue) for row in connection.execute(query)]
    found += _probes(connection, (*ready, on_hold()), lately)
    mark_notified(connection, [batch_id for batch_id, _ in found], at=at)
    return found


def _outstanding(connection: sa.Connection, lately: sa.ColumnElement[bool]) -> int:
    under_way = sa.select(sa.func.count()).select_from(Batch).join(Scan, Scan.id == Batch.scan_id)
    under_way = under_way.where(Batch.state == "ready", Scan.state == "running", ~on_hold(), lately)
    return connection.execute(under_way).scalar_one()


def _probes(
    connection: sa.Connection, ready: Iterable[sa.ColumnElement[bool]], lately: sa.ColumnElement[bool]
) -> list[tuple[int, str]]:
    """One batch of each held scan: tried least, and any of those, so that lost causes do not hold up all others."""
    troubled = connection.execute(sa.select(Scan.id).where(Scan.state == "running", on_hold())).scalars().all()
    found = []
    for scan_id in troubled:
        under_way = sa.or_(Batch.state == "leased", sa.and_(Batch.state == "ready", lately))
        probe = sa.select(Batch.id).where(Batch.scan_id == scan_id, under_way).limit(1)
        if connection.execute(probe).first() is not None:
            continue
        query = sa.select(Batch.id, Batch.queue).join(Scan, Scan.id == Batch.scan_id)
        query = query.where(*ready, Batch.scan_id == scan_id).order_by(Batch.attempts, sa.func.random()).limit(1)
        query = query.with_for_update(skip_locked=True, key_share=True, of=Batch)
        found += [(row.id, row.queue) for row in connection.execute(query)]
    return found
