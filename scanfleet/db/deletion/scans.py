"""Delete whole scans. One that is being deleted is cancelled, so that nothing is added to it on the way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.db.scans.scans import list_rescans
from scanfleet.db.tables import Batch, Forgotten, Image, Scan, Webhook
from scanfleet.errors import RequestError

OPEN = ("running", "paused")


def ended_before(connection: sa.Connection, before: datetime) -> list[str]:
    """Return the scans that ended before a time, and whose rescans all did, the oldest first."""
    renewing = orm.aliased(Scan)
    young = sa.or_(renewing.finished_at.is_(None), renewing.finished_at >= before)
    renewed = sa.exists().where(renewing.rescan_of == Scan.id, young)
    query = sa.select(Scan.id).where(Scan.state.not_in(OPEN), Scan.finished_at < before, ~renewed)
    return list(connection.execute(query.order_by(Scan.finished_at, Scan.id)).scalars())


def begin_deletion(connection: sa.Connection, scan_id: str) -> None:
    """Cancel an ended scan for good. Raises RequestError for one that runs."""
    if (state := _lock(connection, scan_id)) is not None:
        refuse_open(scan_id, state)
    connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(state="cancelled"))


def _lock(connection: sa.Connection, scan_id: str) -> str | None:
    """Return the state of a scan, which stays as it is until the transaction ends; None: it is gone."""
    query = sa.select(Scan.state).where(Scan.id == scan_id)
    return connection.execute(query.with_for_update(key_share=True)).scalar_one_or_none()


def refuse_open(scan_id: str, state: str) -> None:
    if state in OPEN:
        raise RequestError(f"scan {scan_id} is {state}: cancel it first (`scanfleet scans cancel {scan_id}`)")


def images_of_scan(connection: sa.Connection, scan_id: str, *, limit: int) -> Sequence[int]:
    query = sa.select(Image.id).where(Image.scan_id == scan_id).order_by(Image.id).limit(limit)
    return connection.execute(query).scalars().all()


def end_deletion(connection: sa.Connection, scan_id: str) -> None:
    """Delete a scan that holds no image any more. Raises RequestError if somebody has begun to rescan it."""
    _lock(connection, scan_id)
    if rescans := list_rescans(connection, scan_id):
        raise RequestError(f"scan {scan_id} is renewed by {rescans[0].id} by now: cancel that, and delete both")
    renewed = sa.select(Scan.rescan_of).where(Scan.id == scan_id).scalar_subquery()
    connection.execute(sa.update(Scan).where(Scan.id == renewed).values(sums=None))  # its answers stay there
    for table in (Batch, Forgotten, Webhook):
        connection.execute(sa.delete(table).where(table.scan_id == scan_id))
    connection.execute(sa.delete(Scan).where(Scan.id == scan_id))
