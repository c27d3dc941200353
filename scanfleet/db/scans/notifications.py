"""Choose the batches to notify workers about. Notifications may be lost or doubled; marks limit their number."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

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
    ready, unnotified = _ready(at), _unnotified(recently)
    query = (
        sa.select(Batch.id, Scan.model)
        .join(Scan, Scan.id == Batch.scan_id)
        .where(*ready, unnotified, ~on_hold())
        .order_by(Batch.id)
        .limit(n_free)
        .with_for_update(skip_locked=True, key_share=True, of=Batch)
    )
    found = [(row.id, score_queue(row.model)) for row in connection.execute(query)]
    found += _probes(connection, (*ready, on_hold()), recently)
    mark_notified(connection, [batch_id for batch_id, _ in found], at=at)
    return found


def any_due(at: Moment, *, renotify_seconds: float) -> sa.ColumnElement[bool]:
    """Whether `due_for_notification` may find a batch. Of a scan on hold it may be one that has been notified."""
    unnotified = _unnotified(leases.recently_notified(Batch, renotify_seconds, at))
    found = sa.select(Batch.id).join(Scan, Scan.id == Batch.scan_id).where(*_ready(at), sa.or_(unnotified, on_hold()))
    return found.exists()


def _ready(at: Moment) -> tuple[sa.ColumnElement[bool], ...]:
    return leases.claimable(Batch, at), Scan.state == "running", backoff_over(Scan.not_before, at)


def _unnotified(recently: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.or_(Batch.notified_at.is_(None), ~recently)


def _outstanding(connection: sa.Connection, recently: sa.ColumnElement[bool]) -> int:
    under_way = sa.select(sa.func.count()).select_from(Batch).join(Scan, Scan.id == Batch.scan_id)
    under_way = under_way.where(Batch.state == "ready", Scan.state == "running", ~on_hold(), recently)
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
