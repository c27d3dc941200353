"""A breaker for the whole fleet: while a scan's store is unavailable, its batches are not claimed or notified.

After `LIMIT` consecutive batches that could fetch nothing the scan is held for a while. Then one batch at a time
probes the store, after growing pauses. The first image that is fetched releases the scan. One batch alone proves
nothing: access to its objects alone may be refused.
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
    """True where only probes are allowed."""
    return Scan.trouble >= LIMIT


def count_source_error(connection: sa.Connection, scan_id: str, *, waiting_for: str) -> None:
    """Count a batch that could fetch nothing. Batches of several workers at the same time count once."""
    at = now(connection)
    query = sa.select(Scan.trouble, backoff_over(Scan.not_before, at)).where(Scan.id == scan_id)
    before, pause_is_over = connection.execute(query.with_for_update(key_share=True)).one()
    if not pause_is_over:
        return
    n_errors = before + 1
    values: dict[str, Any] = {"trouble": n_errors}
    if n_errors >= LIMIT:
        pause = timedelta(seconds=jittered(backoff_seconds(n_errors - LIMIT + 1)))
        values |= {"not_before": at + pause, "waiting_for": waiting_for}
        _reset_notifications(connection, scan_id)  # those under way will be ignored; the probe's is still to be sent
    connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(values))


def release_scan(connection: sa.Connection, scan_id: str) -> bool:
    """Reset the errors, as the store answers. Returns True if there were any; then batches are notified at once."""
    free = {"trouble": 0, "not_before": None, "waiting_for": None}
    freed = connection.execute(sa.update(Scan).where(Scan.id == scan_id, Scan.trouble > 0).values(free))
    if freed.rowcount:
        _reset_notifications(connection, scan_id)
    return freed.rowcount == 1


def _reset_notifications(connection: sa.Connection, scan_id: str) -> None:
    # SKIP LOCKED: a batch in another transaction is left to the next round, so that no transaction waits.
    idle = (
        sa.select(Batch.id)
        .where(Batch.scan_id == scan_id, Batch.state == "ready", Batch.notified_at.is_not(None))
        .with_for_update(skip_locked=True, key_share=True)
    )
    connection.execute(sa.update(Batch).where(Batch.id.in_(idle)).values(notified_at=None))
