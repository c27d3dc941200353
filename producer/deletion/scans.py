"""Deletes scans: which go, which cannot, and the deletion itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import sqlalchemy as sa

from scanfleet.db.deletion import scans as deletion
from scanfleet.db.deletion.removal import PAGE_IMAGES, Removed
from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.scans import scans
from scanfleet.db.scans.scans import Progress, ScanInfo
from scanfleet.producer.deletion.pages import remove_page
from scanfleet.retry import retry_database

MOST_RESCANS = 10_000  # of one scan


@dataclass(frozen=True, kw_only=True)
class Doomed:
    """A scan that is deleted. named: it was asked for; else it goes with the scan that it renews."""

    scan: ScanInfo
    progress: Progress
    named: bool


def plan_deletion(engine: sa.Engine, names: Sequence[str], *, older_than: timedelta | None) -> list[Doomed]:
    """Return the scans to delete, rescans before what they renew. Writes nothing.

    older_than: of the named scans, or of all, those that ended so long ago. Raises UnknownName, and RequestError for a
    scan that runs.
    """
    with reading(engine, long=True) as connection:
        named = {scans.get_scan(connection, name).id for name in names}
        if older_than is not None:
            old = deletion.ended_before(connection, now(connection) - older_than)
            named = {scan_id for scan_id in old if not names or scan_id in named}
        along = {each.id for scan_id in named for each in scans.list_rescans(connection, scan_id, limit=MOST_RESCANS)}
        found = [scans.get_scan(connection, scan_id) for scan_id in named | along]
        for scan in found:
            deletion.refuse_open(scan.id, scan.state)
        found.sort(key=lambda scan: (scan.rescan_of is None, scan.created_at, scan.id))
        return [
            Doomed(scan=scan, progress=scans.progress(connection, scan.id), named=scan.id in named) for scan in found
        ]


def delete_scan(engine: sa.Engine, scan_id: str) -> Iterator[Removed]:
    """Delete one scan; yields after each page. Raises RequestError."""

    def write(change: Callable[[sa.Connection, str], None]) -> None:
        with transaction(engine) as connection:
            change(connection, scan_id)

    retry_database(partial(write, deletion.begin_deletion))
    while True:
        with reading(engine) as connection:
            page = deletion.images_of_scan(connection, scan_id, limit=PAGE_IMAGES)
        if not page:
            break
        yield remove_page(engine, page)
    retry_database(partial(write, deletion.end_deletion))
