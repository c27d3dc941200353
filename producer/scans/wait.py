"""Waits for a scan: watches its progress in the ledger, and reconciles meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from threading import Event

import sqlalchemy as sa
from celery import Celery

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.scans import scans
from scanfleet.db.scans.scans import Progress, ScanInfo
from scanfleet.producer.scans.session import why_no_worker
from scanfleet.producer.scans.webhooks import deliver
from scanfleet.reconcile import Reconciler
from scanfleet.retry import retry_database

POLL_SECONDS = 0.25  # between two reads of the ledger
ENDED = ("done", "cancelled")


@dataclass(frozen=True, kw_only=True)
class ScanSnapshot:
    """A scan and its progress, from one read."""

    scan: ScanInfo
    progress: Progress

    @property
    def ended(self) -> bool:
        return self.scan.state in ENDED


def snapshot_of(engine: sa.Engine, scan_id: str, *, own_workers: bool = False) -> ScanSnapshot:
    """Read a scan and its progress, as `progress_of`. Raises UnknownName, DatabaseUnavailable."""
    with reading(engine) as connection:
        scan = scans.get_scan(connection, scan_id)
        return ScanSnapshot(scan=scan, progress=progress_of(connection, scan, own_workers=own_workers))


def progress_of(connection: sa.Connection, scan: ScanInfo, *, own_workers: bool = False) -> Progress:
    """Return the progress of a scan. Its wait reason may also be that no worker can start.

    own_workers: the caller starts the workers, so those that ended earlier are no reason.
    """
    done = scans.progress(connection, scan.id)
    if done.waiting_for is None and done.n_pending and scan.state == "running":
        return replace(done, waiting_for=why_no_worker(connection, scan.queue, ended=not own_workers))
    return done


def watch(
    engine: sa.Engine, scan_id: str, *, every_seconds: float = POLL_SECONDS, own_workers: bool = False
) -> Iterator[ScanSnapshot]:
    """Yield snapshots until the scan has ended; the last one has its final state. Only reads."""
    pause = Event()
    while True:
        now = retry_database(lambda: snapshot_of(engine, scan_id, own_workers=own_workers))
        yield now
        if now.ended:
            return
        pause.wait(every_seconds)


def watch_and_reconcile(
    engine: sa.Engine, app: Celery, settings: Settings, scan_id: str, *, own_workers: bool = False
) -> Iterator[ScanSnapshot]:
    """Like `watch`, and reconciles every `reconcile_seconds` while no worker does; at the end its webhooks are sent."""
    due_at = 0.0
    reconciler = Reconciler(engine, app, settings, busy=lambda: True)
    for now in watch(engine, scan_id, own_workers=own_workers):
        yield now
        if now.ended:
            deliver(engine, settings, scan_id)
            return
        if time.monotonic() >= due_at:
            retry_database(reconciler.check)
            due_at = time.monotonic() + settings.reconcile_seconds
