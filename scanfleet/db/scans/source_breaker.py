"""A breaker for the whole fleet: while a scan's store is away, nobody claims its batches or knocks for them.

After `LIMIT` batches in a row that met nothing but an unreachable store the scan is held for a while; then one batch at
a time probes it, after ever longer pauses. The first image that gets through releases it. One batch alone proves
nothing: its objects may be refused for reasons of their own.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from scanfleet.db.clock import backoff_over
from scanfleet.db.engine import now
from scanfleet.db.tables import Batch, Scan
from scanfleet.retry import backoff_seconds, jittered

LIMIT = 3


def on_hold() -> sa.ColumnElement[bool]:
    """Whether only probes may be made."""
    return Scan.trouble >= LIMIT


def count_source_error(connection: sa.Connection, scan_id: str, *, waiting_for: str) -> None:
    """A batch met nothing but a store that is away. What several workers meet at the same time counts once."""
    at = now(connection)
    query = sa.select(Scan.trouble, backoff_over(Scan.not_before, at)).where(Scan.id == scan_id)
    before, pause_is_over = connection.execute(query.with_for_update(key_share=True)).one()
    if not pause_is_over:
        return
    trouble = before + 1
    values: dict[str, Any] = {"trouble": trouble}
    if trouble >= LIMIT:
        pause = timedelta(seconds=jittered(backoff_seconds(trouble - LIMIT + 1)))
        values |= {"not_before": at + pause, "waiting_for": waiting_for}
        _forget_notifications(connection, scan_id)  # those under way come to nothing; the probe's is still to be made
    connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(values))


def release_scan(connection: sa.Connection, scan_id: str) -> bool:
    """The store answers. Returns whether there was trouble; then the scan's batches are due for a knock at once."""
    free = {"trouble": 0, "not_before": None, "waiting_for": None}
    freed = connection.execute(sa.update(Scan).where(Scan.id == scan_id, Scan.trouble > 0).values(free))
    if freed.rowcount:
        _forget_notifications(connection, scan_id)
    return freed.rowcount == 1


def _forget_notifications(connection: sa.Connection, scan_id: str) -> None:
    # SKIP LOCKED: a batch in somebody's transaction is left to the next round, so that nobody waits for anybody.
    idle = (
        sa.select(Batch.id)
        .where(Batch.scan_id == scan_id, Batch.state == "ready", Batch.notified_at.is_not(None))
        .with_for_update(skip_locked=True, key_share=True)
    )
    connection.execute(sa.update(Batch).where(Batch.id.in_(idle)).values(notified_at=None))
