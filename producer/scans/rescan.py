"""Rescans: enqueues the answers that a new champion may change as a scan of its own.

A rescan that was killed at any point can be run again: each page stores how far it got.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from celery import Celery

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.results import rescans
from scanfleet.db.scans import new_images, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.db.tables import Batch, Scan
from scanfleet.producer.scans.enqueue import Enqueued, Notifier
from scanfleet.producer.scans.rescan_plan import Plan, pool_of, refuse_cancelled
from scanfleet.producer.sources.filters import page_sizes
from scanfleet.retry import retry_database

BEHIND_ALL = "g"  # sorts after every identity, which is hexadecimal

Cursor = dict[str, Any]  # part: changeable or audit; after, until: of image ids or identities; left: of the sample


def enqueue_rescan(engine: sa.Engine, app: Celery, settings: Settings, plan: Plan) -> Iterator[Enqueued]:
    """Write the scan and its images, and notify the workers. Yields after each page; the last one is `ended`."""
    scan = plan.known or retry_database(lambda: _open(engine, plan))
    walk = _Walk(engine, settings, scan, plan.root, Notifier(engine, app, settings))
    yield walk.snapshot()
    sizes = page_sizes(settings.batch_images)
    while not walk.ended:
        walk.step(next(sizes))
        yield walk.snapshot()


def _open(engine: sa.Engine, plan: Plan) -> ScanInfo:
    def attempt() -> ScanInfo:
        with transaction(engine) as connection:
            known = rescans.find_rescan(connection, plan.identity)
            begin = {"part": "changeable", "after": 0}
            return known or rescans.add_rescan(
                connection, plan.root, identity=plan.identity, filters=plan.filters, cursor=begin
            )

    try:
        return attempt()
    except sa.exc.IntegrityError:  # another producer just opened the same rescan
        return attempt()


class _Walk:
    """Enqueues the answers of a scan page by page: first those that can change, then the audit sample.

    Other producers may do the same: a page is written only if the cursor is still at its beginning.
    """

    def __init__(
        self, engine: sa.Engine, settings: Settings, scan: ScanInfo, root: ScanInfo, notifier: Notifier
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._scan = scan
        self._pool = pool_of(root, scan.filters["adapter"], scan.filters["band"])
        self._notifier = notifier
        self._n_seen = self._n_new = 0
        self._cursor: Cursor | None = scan.cursor
        self.ended = scan.n_listed is not None

    def step(self, size: int) -> None:
        """Write one page, or the end after the last one."""
        cursor = self._cursor
        if cursor is None:
            retry_database(self._end)
            return
        page, following = retry_database(lambda: self._read(cursor, size))
        retry_database(lambda: self._write(cursor, page, following))

    def _read(self, cursor: Cursor, size: int) -> tuple[list[NewImage], Cursor | None]:
        """Return a page and the cursor of the next one. Blocks nobody, since it may take long in a large archive."""
        with reading(self._engine, long=True) as connection:
            if cursor["part"] == "changeable":
                page = self._pool.changeable(connection, after=cursor["after"], limit=size)
                following = cursor | {"after": page[-1].rescan_of} if len(page) == size else None
                return page, following or _audit_from(self._scan.filters)
            size = min(size, cursor["left"])
            page = self._pool.rest(connection, after=cursor["after"], until=cursor["until"], limit=size)
        left = cursor["left"] - len(page)
        if left and len(page) == size:
            return page, cursor | {"after": page[-1].identity, "left": left}
        if left and cursor["until"] == BEHIND_ALL:  # wrap around, up to where the sample began
            return page, cursor | {"after": "", "until": _start(self._scan.filters["seed"]), "left": left}
        return page, None

    def _write(self, cursor: Cursor, page: list[NewImage], following: Cursor | None) -> None:
        """Write images, batches, cursor and due notifications in one transaction."""
        with transaction(self._engine) as connection:
            now = self._lock(connection)
            if now.cursor != cursor:
                self._cursor, self.ended = now.cursor, now.n_listed is not None
                return
            added = new_images.add_images(
                connection,
                scan_id=self._scan.id,
                queue=self._scan.queue,
                images=page,
                batch_images=self._settings.batch_images,
            )
            n_new = _count_images(connection, added)
            connection.execute(sa.update(Scan).where(Scan.id == self._scan.id).values(cursor=following))
            due = self._notifier.due(connection)
        self._cursor = following
        self._n_seen += len(page)
        self._n_new += n_new
        if due:
            self._notifier.notify(due)

    def _end(self) -> None:
        """Mark the enqueue as complete; only now can the rescan become done."""
        with transaction(self._engine) as connection:
            self._lock(connection)
            n_listed = scans.progress(connection, self._scan.id).n_images
            connection.execute(sa.update(Scan).where(Scan.id == self._scan.id).values(n_listed=n_listed))
            scans.finish_if_complete(connection, self._scan.id)
            due = self._notifier.due(connection)
        self.ended = True
        if due:
            self._notifier.notify(due)

    def _lock(self, connection: sa.Connection) -> ScanInfo:
        """Return the rescan and lock its state until the commit."""
        connection.execute(sa.select(Scan.id).where(Scan.id == self._scan.id).with_for_update(key_share=True))
        scan = scans.get_scan(connection, self._scan.id)
        refuse_cancelled(scan)
        return scan

    def snapshot(self) -> Enqueued:
        return Enqueued(
            scans=(self._scan,),
            n_listed=self._n_seen,
            n_new=self._n_new,
            n_skipped=0,
            broker_away=self._notifier.broker_away,
            ended=self.ended,
        )


def _audit_from(filters: dict[str, Any]) -> Cursor | None:
    """Return the cursor of the audit sample, which begins at an identity that the seed chooses."""
    size = filters["audit"]
    return {"part": "audit", "after": _start(filters["seed"]), "until": BEHIND_ALL, "left": size} if size else None


def _start(seed: int) -> str:
    return hashlib.sha256(f"audit\0{seed}".encode()).hexdigest()


def _count_images(connection: sa.Connection, batch_ids: list[int]) -> int:
    total = sa.select(sa.func.coalesce(sa.func.sum(Batch.n_images), 0)).where(Batch.id.in_(batch_ids))
    return int(connection.execute(total).scalar_one())
