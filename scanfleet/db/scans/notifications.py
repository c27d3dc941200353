"""Choose the batches to notify workers about. Notifications may be lost or doubled; marks limit their number."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import sqlalchemy as sa

from scanfleet.db import leases
from scanfleet.db.clock import Moment, backoff_over
from scanfleet.db.engine import now
from scanfleet.db.scans.source_breaker import on_hold
from scanfleet.db.tables import Batch, Scan
from scanfleet.messages import score_queue

mark_notified = partial(leases.mark_notified, table=Batch)


def due_for_notification(
    connection: sa.Connection, *, renotify_seconds: float, max_outstanding: int
) -> list[tuple[int, str]]:
    """Find ready batches without a recent notification, as (batch id, queue), and mark them as notified.

    The queue is that of the scan's model, also for batches that an older release wrote under another one.

    The number is limited so that at most `max_outstanding` notifications are under way. A scan whose store is
    unavailable gets one, as a probe, and none while one is under way; probes are not limited, or a busy scan would keep
    others on hold.
    """
    at = now(connection)
    recently = leases.recently_notified(Batch, renotify_seconds, at)
    n_free = max(max_outstanding - _outstanding(connection, recently), 0)
    # Two queries, since each has an index: of a long archive most batches are ready, and few are due.
    new = _first(connection, at, n_free, Batch.notified_at.is_(None))
    again = _first(connection, at, n_free, Batch.notified_at.is_not(None), ~recently)
    found = sorted(new + again)[:n_free]
    found += _probes(connection, (*_ready(at), on_hold()), recently)
    mark_notified(connection, [batch_id for batch_id, _ in found], at=at)
    return found


def _first(connection: sa.Connection, at: Moment, n: int, *which: sa.ColumnElement[bool]) -> list[tuple[int, str]]:
    """Lock the free ones of these batches that are ready, with the lowest ids. Returns (batch id, queue)."""
    if not n:
        return []
    open_ = _of_scan(sa.and_(Scan.state == "running", backoff_over(Scan.not_before, at), ~on_hold()))
    query = sa.select(Batch.id, _of_scan(Scan.model).label("model"))
    query = query.where(_is_ready(), leases.claimable(Batch, at), open_, *which)
    query = query.order_by(Batch.id).limit(n).with_for_update(skip_locked=True, key_share=True, of=Batch)
    return [(row.id, score_queue(row.model)) for row in connection.execute(query)]


def _of_scan(what: Any) -> sa.ScalarSelect[Any]:
    """A value of a batch's scan. Not as a join: PostgreSQL takes all scans for equally long, and would read the
    ready batches of the running ones instead of the few that are due."""
    return sa.select(what).where(Scan.id == Batch.scan_id).scalar_subquery()


def any_due(at: Moment, *, renotify_seconds: float) -> sa.ColumnElement[bool]:
    """Whether `due_for_notification` may find a batch. Of a scan on hold it may be one that has been notified."""
    unnotified = _unnotified(leases.recently_notified(Batch, renotify_seconds, at))
    found = sa.select(Batch.id).join(Scan, Scan.id == Batch.scan_id).where(*_ready(at), sa.or_(unnotified, on_hold()))
    return found.exists()


def _ready(at: Moment) -> tuple[sa.ColumnElement[bool], ...]:
    return leases.claimable(Batch, at), Scan.state == "running", backoff_over(Scan.not_before, at)


def _is_ready() -> sa.ColumnElement[bool]:
    """Written into the statement, so that SQLite, too, sees that the partial indexes of ready batches hold them all."""
    return Batch.state == sa.literal("ready", literal_execute=True)


def _unnotified(recently: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.or_(Batch.notified_at.is_(None), ~recently)


def _outstanding(connection: sa.Connection, recently: sa.ColumnElement[bool]) -> int:
    open_ = _of_scan(sa.and_(Scan.state == "running", ~on_hold()))
    under_way = sa.select(sa.func.count()).select_from(Batch)
    under_way = under_way.where(_is_ready(), Batch.notified_at.is_not(None), recently, open_)
    return connection.execute(under_way).scalar_one()


def _probes(
    connection: sa.Connection, ready: Iterable[sa.ColumnElement[bool]], recently: sa.ColumnElement[bool]
) -> list[tuple[int, str]]:
    """Choose one batch of each held scan: a random one of those with the fewest attempts."""
    held = connection.execute(sa.select(Scan.id).where(Scan.state == "running", on_hold())).scalars().all()
    found = []
    for scan_id in held:
        under_way = sa.or_(Batch.state == "leased", sa.and_(Batch.state == "ready", recently))
        probe = sa.select(Batch.id).where(Batch.scan_id == scan_id, under_way).limit(1)
        if connection.execute(probe).first() is not None:
            continue
        query = sa.select(Batch.id, Scan.model).join(Scan, Scan.id == Batch.scan_id)
        query = query.where(*ready, Batch.scan_id == scan_id).order_by(Batch.attempts, sa.func.random()).limit(1)
        query = query.with_for_update(skip_locked=True, key_share=True, of=Batch)
        found += [(row.id, score_queue(row.model)) for row in connection.execute(query)]
    return found
