"""Waiting for a scan: watches its progress in the ledger and, on the way, keeps the fleet going."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from threading import Event

import sqlalchemy as sa
from celery import Celery

from producer.scans.session import SILENT_SECONDS, held_up_by
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.scans import scans
from scanfleet.db.scans.scans import Progress, ScanInfo
from scanfleet.db.scans.workers import live_workers
from scanfleet.reconcile import reconcile_once
from scanfleet.retry import retry_database

LOOK_SECONDS = 0.25  # between two looks at the ledger
ENDED = ("done", "cancelled")


@dataclass(frozen=True, kw_only=True)
class ScanSnapshot:
    """A scan and how far it is, from one read."""

    scan: ScanInfo
    progress: Progress

    @property
    def ended(self) -> bool:
        return self.scan.state in ENDED


def standing(engine: sa.Engine, scan_id: str) -> ScanSnapshot:
    """Raises UnknownName, DatabaseUnavailable."""
    with reading(engine) as connection:
        scan = scans.get_scan(connection, scan_id)
        return ScanSnapshot(scan=scan, progress=progress_of(connection, scan))


def progress_of(connection: sa.Connection, scan: ScanInfo) -> Progress:
    """How far a scan is, and what holds it up: also workers that cannot begin, where there are no others."""
    done = scans.progress(connection, scan.id)
    if done.waiting_for is None and done.n_pending and scan.state == "running":
        workers = live_workers(connection, silent_seconds=SILENT_SECONDS)
        return replace(done, waiting_for=held_up_by(workers, scan.queue))
    return done


def watch(engine: sa.Engine, scan_id: str, *, every_seconds: float = LOOK_SECONDS) -> Iterator[ScanSnapshot]:
    """How the scan stands, again and again until it has ended; the last one says how it did. Only reads."""
    pause = Event()
    while True:
        now = retry_database(lambda: standing(engine, scan_id))
        yield now
        if now.ended:
            return
        pause.wait(every_seconds)


def tend(engine: sa.Engine, app: Celery, settings: Settings, scan_id: str) -> Iterator[ScanSnapshot]:
    """`watch`, and a reconciling round every `reconcile_seconds`."""
    due_at = 0.0
    for now in watch(engine, scan_id):
        yield now
        if now.ended:
            return
        if time.monotonic() >= due_at:
            retry_database(lambda: reconcile_once(engine, app, settings))
            due_at = time.monotonic() + settings.reconcile_seconds
