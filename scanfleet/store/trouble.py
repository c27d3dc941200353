"""A breaker for the whole fleet: while a scan's store is away, nobody claims its batches or knocks for them.

The first worker whose batch met nothing but an unreachable store holds the scan for a while; then one batch at a time
probes it, after ever longer pauses. The first image that gets through releases it.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from scanfleet.backoff import backoff_seconds, jittered
from scanfleet.store.engine import now
from scanfleet.store.tables import Batch, Scan


def hold_scan(connection: sa.Connection, scan_id: str, *, waiting_for: str) -> None:
    """Say that the store is away. What several workers find out at the same time counts once."""
    at = now(connection)
    query = sa.select(Scan.trouble, Scan.not_before).where(Scan.id == scan_id).with_for_update()
    trouble, not_before = connection.execute(query).one()
    if not_before is not None and not_before > at:
        return
    pause = timedelta(seconds=jittered(backoff_seconds(trouble + 1)))
    held = {"trouble": trouble + 1, "not_before": at + pause, "waiting_for": waiting_for}
    connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(held))
    _forget_knocks(connection, scan_id)  # those under way come to nothing; the probe's is still to be made


def release_scan(connection: sa.Connection, scan_id: str) -> bool:
    """Say that the store answers. Returns whether the scan was held; then its batches are due for a knock at once."""
    free = {"trouble": 0, "not_before": None, "waiting_for": None}
    freed = connection.execute(sa.update(Scan).where(Scan.id == scan_id, Scan.trouble > 0).values(free))
    if freed.rowcount:
        _forget_knocks(connection, scan_id)
    return freed.rowcount == 1


def _forget_knocks(connection: sa.Connection, scan_id: str) -> None:
    # SKIP LOCKED: a batch in somebody's transaction is left to the next round, so that nobody waits for anybody.
    idle = (
        sa.select(Batch.id)
        .where(Batch.scan_id == scan_id, Batch.state == "ready", Batch.rung_at.is_not(None))
        .with_for_update(skip_locked=True)
    )
    connection.execute(sa.update(Batch).where(Batch.id.in_(idle)).values(rung_at=None))
