"""Clears away what was kept long enough: uploads, the scans of requests, and leases of review."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import sqlalchemy as sa
import structlog

from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.review.leases import delete_ended
from scanfleet.db.scans.scans import REQUEST
from scanfleet.db.tables import Scan
from scanfleet.errors import ScanfleetError
from scanfleet.producer.deletion.scans import delete_scan
from scanfleet.serve.context import Serving
from scanfleet.serve.uploads import clear_old

log = structlog.get_logger()
EVERY_SECONDS = 600.0
MOST = 1000  # scans in one round


def clear(serving: Serving) -> int:
    """Delete requests that ended longer ago than `serve_keep_hours`, then old uploads. Returns the scans' number.

    Raises ScanfleetError; sa.exc.ProgrammingError where the database's login may not delete.
    """
    with transaction(serving.engine) as connection:
        delete_ended(connection)
    with reading(serving.engine) as connection:
        oldest = now(connection) - timedelta(hours=serving.settings.serve_keep_hours)
        query = sa.select(Scan.id).where(Scan.kind == REQUEST, Scan.state.in_(("done", "cancelled")))
        query = query.where(Scan.finished_at < oldest).order_by(Scan.finished_at).limit(MOST)
        old = connection.execute(query).scalars().all()
    for scan_id in old:
        for _ in delete_scan(serving.engine, scan_id):
            pass
    clear_old(serving.settings)
    return len(old)


@contextmanager
def clearing(serving: Serving) -> Iterator[None]:
    """Clear at the start and every ten minutes, in a thread."""
    stop = threading.Event()

    def run() -> None:
        while True:
            try:
                clear(serving)
            except (ScanfleetError, sa.exc.ProgrammingError) as error:
                log.warning("requests_not_cleared", error=type(error).__name__, detail=str(error)[:200])
            if stop.wait(EVERY_SECONDS):
                return

    thread = threading.Thread(target=run, name="clearing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
