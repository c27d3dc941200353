"""Retry failed images."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from scanfleet.db import leases, locks
from scanfleet.db.scans import scans
from scanfleet.db.tables import Batch, Failure, Image
from scanfleet.errors import RequestError


def retry_failures(
    connection: sa.Connection, scan_id: str, *, stage: str | None = None, reason: str | None = None
) -> int:
    """Make failed images pending, their batches ready, and reopen the scan. Returns the number of images.

    All of this happens in the caller's transaction. Raises RequestError for a cancelled scan.
    """
    scan = scans.get_scan(connection, scan_id)
    _refuse_cancelled(scan.id, scan.state)
    n_retried = sum(
        _reopen_batch(connection, batch_id, _chosen(stage, reason))
        for batch_id in _batches_with_failures(connection, scan.id, _chosen(stage, reason))
    )
    if n_retried:
        # Batches first, then the scan (db/locks.py). The lock also waits for a worker that marks the scan done, and
        # for a cancellation.
        _refuse_cancelled(scan.id, locks.hold_scan(connection, scan.id))
        scans.reopen(connection, scan.id)
    return n_retried


def _refuse_cancelled(scan_id: str, state: str) -> None:
    if state == "cancelled":
        raise RequestError(f"scan {scan_id} was cancelled: start another one with `scanfleet scan ... --fresh`")


def _chosen(stage: str | None, reason: str | None) -> list[sa.ColumnElement[bool]]:
    chosen = []
    if stage is not None:
        chosen.append(Failure.stage == stage)
    if reason is not None:
        chosen.append(Failure.reason == reason)
    return chosen


def _batches_with_failures(
    connection: sa.Connection, scan_id: str, chosen: Sequence[sa.ColumnElement[bool]]
) -> Sequence[int]:
    query = (
        sa.select(Image.batch_id)
        .join(Failure, Failure.image_id == Image.id)
        .where(Failure.scan_id == scan_id, *chosen)
        .distinct()
        .order_by(Image.batch_id)
    )
    return connection.execute(query).scalars().all()


def _reopen_batch(connection: sa.Connection, batch_id: int, chosen: Sequence[sa.ColumnElement[bool]]) -> int:
    """Make a batch ready, as if new. A worker that holds it loses its lease: its claim lacks these images.

    A batch with images that killed workers runs alone again.
    The batch is locked before its failures are counted, so that a write under way is included.
    """
    this = Batch.id == batch_id
    fresh = {"attempts": 0, "not_before": None, "waiting_for": None, "finished_at": None, "crashes": 0, "in_hand": None}
    values = leases.READY | fresh | {"lease_token": Batch.lease_token + 1}
    connection.execute(sa.update(Batch).where(this).values(values))
    failed = (
        sa.select(Failure.image_id).join(Image, Image.id == Failure.image_id).where(Image.batch_id == batch_id, *chosen)
    )
    image_ids = connection.execute(failed).scalars().all()
    blamed = sa.exists().where(Image.id.in_(image_ids), Image.crashes > 0)
    connection.execute(sa.update(Batch).where(this, blamed).values(suspect=True))
    connection.execute(sa.delete(Failure).where(Failure.image_id.in_(image_ids)))
    connection.execute(sa.update(Image).where(Image.id.in_(image_ids)).values(state="pending", crashes=0))
    connection.execute(sa.update(Batch).where(this).values(n_failures=Batch.n_failures - len(image_ids)))
    return len(image_ids)
