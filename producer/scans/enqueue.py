"""Turns a listing into rows and notifications. The rows of a page are committed before workers are notified.

An enqueue that was killed at any point can be run again: an image is identified by its uri and version, so listing it
twice adds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import sqlalchemy as sa
from celery import Celery

from producer.sources.filters import pages
from producer.sources.listing import Listing
from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans import batches, notifications, scans
from scanfleet.db.scans.batches import NewImage
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import EmptySource, RequestError
from scanfleet.reconcile import notify_all
from scanfleet.retry import retry_database

SIFT_IMAGES = 1024  # images in one read, when the scan already holds most of a listing
BROKER_AWAY_SECONDS = 30.0  # after a failed notification, the listing continues and tries again only then


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    """The state of the listing after a page."""

    scan: ScanInfo
    n_listed: int  # images listed by this run
    n_new: int  # images written by this run
    n_skipped: int  # files that are not images, or that a filter excluded
    broker_away: bool
    ended: bool
    idle_excludes: tuple[str, ...] = ()  # globs of --exclude that matched nothing
    n_left_out: int = 0  # entries of manifests and archives that name no image
    left_out: tuple[str, ...] = ()  # the first of them, each with the reason


class Notifier:
    """Sends due notifications while the limit allows; the reconcilers send the rest."""

    def __init__(self, engine: sa.Engine, app: Celery, settings: Settings) -> None:
        self._engine = engine
        self._app = app
        self._settings = settings
        self._quiet_until = 0.0
        self.broker_away = False

    def due(self, connection: sa.Connection) -> list[tuple[int, str]]:
        """Return the batches to notify after the commit. At the limit, pauses before it asks the ledger again."""
        if time.monotonic() < self._quiet_until:
            return []
        cap = self._settings.max_outstanding_notifications
        found = notifications.due_for_notification(
            connection, renotify_seconds=self._settings.renotify_seconds, max_outstanding=cap
        )
        if not found:
            self._quiet_until = time.monotonic() + self._settings.reconcile_seconds
        return found

    def notify(self, due: list[tuple[int, str]]) -> None:
        self.broker_away = notify_all(self._engine, self._app, due) < len(due)
        if self.broker_away:
            self._quiet_until = time.monotonic() + BROKER_AWAY_SECONDS


def enqueue(
    engine: sa.Engine, app: Celery, settings: Settings, *, listing: Listing, check: Check, fresh: bool = False
) -> Iterator[Enqueued]:
    """Write the images of a listing as a scan, page by page; yield after each commit.

    The first page is one batch, which can be scored while the listing continues. A finished scan opens again if its
    sources hold something new. Raises EmptySource, RequestError (a cancelled scan) and what sources and store raise.
    """
    images = listing.images()
    first = next(images, None)  # a bad source raises here, before anything is written
    if first is None:
        raise EmptySource(_nothing_in(listing))
    scan, new = retry_database(lambda: _open(engine, settings, listing, check, fresh=fresh))
    _refuse_cancelled(scan)
    again = _without_held(engine, scan.id, listing.images(_resume_at(scan)))
    images = chain([first], images) if new else again
    run = _Run(engine, settings, scan, listing, Notifier(engine, app, settings))
    yield run.snapshot()
    portions = pages(images, batch_images=settings.batch_images)
    while not run.full and (page := next(portions, None)) is not None:
        retry_database(partial(run.write, page))
        yield run.snapshot()
    retry_database(run.end)
    yield run.snapshot(ended=True)


class _Run:
    """Writes one listing into the ledger."""

    def __init__(
        self, engine: sa.Engine, settings: Settings, scan: ScanInfo, listing: Listing, notifier: Notifier
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._scan = scan
        self._listing = listing
        self._notifier = notifier
        self._n_new = 0
        self._cursor = scan.cursor
        self._keeps_cursor = True
        with reading(engine) as connection:
            self.full = self._remaining(connection) == 0

    def write(self, page: list[NewImage]) -> None:
        """Write images, batches, cursor and due notifications in one transaction."""
        with transaction(self._engine) as connection:
            held = _lock(connection, self._scan.id)
            _refuse_cancelled(held)
            remaining = self._remaining(connection)
            added = batches.add_images(
                connection,
                scan_id=self._scan.id,
                queue=self._scan.queue,
                images=page,
                batch_images=self._settings.batch_images,
                at_most=remaining,
            )
            n_new = _count_images(connection, added)
            values = self._move_cursor(held, self._listing.cursor_at(page[-1])) | {"roots": self._listing.roots}
            if added:
                # While n_listed is NULL, no worker can end the scan before the next page.
                values |= {"n_listed": None}
                scans.reopen(connection, self._scan.id)
            if values:
                connection.execute(sa.update(Scan).where(Scan.id == self._scan.id).values(values))
            due = self._notifier.due(connection)
        self._n_new += n_new
        self.full = remaining is not None and remaining <= n_new
        if due:
            self._notifier.notify(due)

    def _move_cursor(self, held: ScanInfo, cursor: dict[str, Any] | None) -> dict[str, Any]:
        """Return the column to write; none, for good, once the ledger's cursor is not the one of the last page.

        Then the database was restored and has lost pages before this one, or another command lists the same scan.
        """
        self._keeps_cursor = self._keeps_cursor and held.cursor in (self._cursor, cursor)  # cursor: a repeated commit
        self._cursor = cursor
        return {"cursor": cursor} if self._keeps_cursor else {}

    def _remaining(self, connection: sa.Connection) -> int | None:
        """Return how many images the scan may still take; None for no limit."""
        limit = self._listing.filters.limit
        return None if limit is None else max(limit - scans.progress(connection, self._scan.id).n_images, 0)

    def end(self) -> None:
        """Mark the listing as complete; only now can the scan become done."""
        with transaction(self._engine) as connection:
            _refuse_cancelled(_lock(connection, self._scan.id))
            n_listed = scans.progress(connection, self._scan.id).n_images
            values = {"n_listed": n_listed, "cursor": None}
            connection.execute(sa.update(Scan).where(Scan.id == self._scan.id).values(values))
            scans.finish_if_complete(connection, self._scan.id)
            due = self._notifier.due(connection)
        if due:
            self._notifier.notify(due)

    def snapshot(self, *, ended: bool = False) -> Enqueued:
        counts = self._listing.counts
        return Enqueued(
            scan=self._scan,
            n_listed=counts.n_taken,
            n_new=self._n_new,
            n_skipped=counts.n_skipped,
            broker_away=self._notifier.broker_away,
            ended=ended,
            idle_excludes=tuple(sorted(counts.idle or ())),
            n_left_out=counts.n_left_out,
            left_out=tuple(map(str, counts.left_out)),
        )


def _open(
    engine: sa.Engine, settings: Settings, listing: Listing, check: Check, *, fresh: bool
) -> tuple[ScanInfo, bool]:
    def attempt() -> tuple[ScanInfo, bool]:
        with transaction(engine) as connection:
            return scans.open_scan(
                connection,
                check=check,
                model=settings.model,
                sources=listing.names,
                filters=listing.filters.as_dict(),
                fresh=fresh,
            )

    try:
        return attempt()
    except sa.exc.IntegrityError:  # another producer just opened the same scan or stored the check
        return attempt()


def _resume_at(scan: ScanInfo) -> dict[str, Any] | None:
    """Return the cursor of an interrupted listing; None for a complete one, which is listed again for new images."""
    return scan.cursor if scan.n_listed is None else None


def _lock(connection: sa.Connection, scan_id: str) -> ScanInfo:
    """Return the scan and lock its state until the commit."""
    connection.execute(sa.select(Scan.id).where(Scan.id == scan_id).with_for_update(key_share=True))
    return scans.get_scan(connection, scan_id)


def _refuse_cancelled(scan: ScanInfo) -> None:
    if scan.state == "cancelled":
        raise RequestError(f"scan {scan.id} of this source was cancelled: start a new one with --fresh")


def _without_held(engine: sa.Engine, scan_id: str, images: Iterable[NewImage]) -> Iterator[NewImage]:
    """Drop the images that the scan already holds, in read transactions that block no worker."""
    for page in pages(images, batch_images=SIFT_IMAGES):

        def sift(page: list[NewImage] = page) -> list[NewImage]:
            with reading(engine) as connection:
                return batches.not_yet_held(connection, scan_id, page)

        yield from retry_database(sift)


def _count_images(connection: sa.Connection, batch_ids: list[int]) -> int:
    total = sa.select(sa.func.coalesce(sa.func.sum(Batch.n_images), 0)).where(Batch.id.in_(batch_ids))
    return int(connection.execute(total).scalar_one())


def _nothing_in(listing: Listing) -> str:
    skipped, filters = listing.counts.n_skipped, listing.filters
    hint = f" ({skipped} other files skipped; use --include to add them)" if skipped else ""
    if skipped and (filters.include or filters.exclude):
        hint = f" ({skipped} files skipped; --include and --exclude select none of them)"
    hint = f" ({listing.counts.left_out[0]})" if listing.counts.left_out else hint
    return f"no images found in {', '.join(listing.names)}{hint}"
