"""Turns a listing into rows and notifications, of one scan for each check. The rows of a page are committed first.

An enqueue that was killed at any point can be run again: an image is identified by its uri and version, so listing it
twice adds nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import sqlalchemy as sa
from celery import Celery

from scanfleet.checks.check import Check
from scanfleet.checks.passes import plan_passes
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans import new_images, notifications, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.errors import EmptySource
from scanfleet.producer.scans.target import Target
from scanfleet.producer.sources.filters import pages
from scanfleet.producer.sources.listing import Listing
from scanfleet.reconcile import notify_all
from scanfleet.retry import retry_database

SIFT_IMAGES = 1024  # images in one read, when the scan already holds most of a listing
BROKER_AWAY_SECONDS = 30.0  # after a failed notification, the listing continues and tries again only then


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    """The state of the listing after a page."""

    scans: tuple[ScanInfo, ...]  # one for each check
    n_listed: int  # images listed by this run
    n_new: int  # images written by this run, into the scan that took the most
    n_skipped: int  # files that are not images, or that a filter excluded
    broker_away: bool
    ended: bool
    idle_excludes: tuple[str, ...] = ()  # globs of --exclude that matched nothing
    n_left_out: int = 0  # entries of manifests and archives that name no image
    left_out: tuple[str, ...] = ()  # the first of them, each with the reason
    n_forgotten: int = 0  # images that `scanfleet forget` deleted, of the scan that has the most

    @property
    def scan(self) -> ScanInfo:
        """The first one."""
        return self.scans[0]


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
    engine: sa.Engine,
    app: Celery,
    settings: Settings,
    *,
    listing: Listing,
    checks: Sequence[Check],
    fresh: bool = False,
) -> Iterator[Enqueued]:
    """Write the images of a listing as one scan per check, page by page; yield after each commit.

    The first page is one batch, which can be scored while the listing continues. A finished scan opens again if its
    sources hold something new. Raises EmptySource, RequestError (a cancelled scan) and what sources and store raise.
    """
    images = listing.images()
    first = next(images, None)  # a bad source raises here, before anything is written
    if first is None:
        raise EmptySource(_nothing_in(listing))
    opened = retry_database(lambda: _open(engine, settings, listing, checks, fresh=fresh))
    targets = [Target(engine, settings, scan, listing) for scan, _ in opened]
    for target in targets:
        target.refuse_cancelled()
    if all(new for _, new in opened):
        images = chain([first], images)
    else:
        scan_ids = [target.scan.id for target in targets]
        images = _without_held(engine, scan_ids, listing.images(_resume_at(targets)))
    run = _Run(engine, targets, listing, Notifier(engine, app, settings))
    yield run.snapshot()
    portions = pages(images, batch_images=settings.batch_images)
    while not run.full and (page := next(portions, None)) is not None:
        retry_database(partial(run.write, page))
        yield run.snapshot()
    retry_database(run.end)
    yield run.snapshot(ended=True)


class _Run:
    """Writes one listing into the ledger, each page into all scans at once: they get the same batches."""

    def __init__(self, engine: sa.Engine, targets: Sequence[Target], listing: Listing, notifier: Notifier) -> None:
        self._engine = engine
        self._targets = targets
        self._listing = listing
        self._notifier = notifier

    @property
    def full(self) -> bool:
        """True if no scan takes a further image."""
        return all(target.full for target in self._targets)

    def write(self, page: list[NewImage]) -> None:
        """Write images, batches, cursor and due notifications in one transaction."""
        with transaction(self._engine) as connection:
            open_ones = self._lock(connection)
            added = [target.write(connection, page) for target in open_ones]
            due = self._notifier.due(connection)
        for target, n_new in zip(open_ones, added, strict=True):
            target.count(n_new)
        if due:
            self._notifier.notify(due)

    def _lock(self, connection: sa.Connection) -> list[Target]:
        """Lock the scans until the commit, in the order of their ids, and return those that were not cancelled.

        Raises RequestError if all were.
        """
        for target in sorted(self._targets, key=lambda target: target.scan.id):
            target.lock(connection)
        open_ones = [target for target in self._targets if target.held.state != "cancelled"]
        if not open_ones:
            self._targets[0].refuse_cancelled()
        return open_ones

    def end(self) -> None:
        """Mark the listing as complete; only now can the scans become done."""
        with transaction(self._engine) as connection:
            for target in self._lock(connection):
                target.end(connection)
            due = self._notifier.due(connection)
        if due:
            self._notifier.notify(due)

    def snapshot(self, *, ended: bool = False) -> Enqueued:
        counts = self._listing.counts
        return Enqueued(
            scans=tuple(target.scan for target in self._targets),
            n_listed=counts.n_taken,
            n_new=max(target.n_new for target in self._targets),
            n_skipped=counts.n_skipped,
            broker_away=self._notifier.broker_away,
            ended=ended,
            idle_excludes=tuple(sorted(counts.idle or ())),
            n_left_out=counts.n_left_out,
            left_out=tuple(map(str, counts.left_out)),
            n_forgotten=max(target.n_forgotten for target in self._targets),
        )


def _open(
    engine: sa.Engine, settings: Settings, listing: Listing, checks: Sequence[Check], *, fresh: bool
) -> list[tuple[ScanInfo, bool]]:
    about: dict[str, Any] = {"model": settings.model, "sources": listing.names, "filters": listing.filters.as_dict()}
    salt = secrets.token_hex(8) if fresh else ""
    planned = plan_passes(checks, model=settings.model)
    pass_ids = {check.hash: each.id(about, salt) for each in planned for check in each.checks}

    def attempt() -> list[tuple[ScanInfo, bool]]:
        with transaction(engine) as connection:
            return [
                scans.open_scan(connection, check=check, pass_id=pass_ids[check.hash], fresh=fresh, **about)
                for check in checks
            ]

    try:
        return attempt()
    except sa.exc.IntegrityError:  # another producer just opened the same scan or stored the check
        return attempt()


def _resume_at(targets: Sequence[Target]) -> dict[str, Any] | None:
    """Return where an interrupted listing of all these scans goes on; None: all is listed again, for new images."""
    cursors = [target.scan.cursor if target.scan.n_listed is None else None for target in targets]
    return cursors[0] if all(cursor == cursors[0] for cursor in cursors) else None


def _without_held(engine: sa.Engine, scan_ids: Sequence[str], images: Iterable[NewImage]) -> Iterator[NewImage]:
    """Drop the images that all scans already hold, in read transactions that block no worker."""
    for page in pages(images, batch_images=SIFT_IMAGES):

        def sift(page: list[NewImage] = page) -> list[NewImage]:
            with reading(engine) as connection:
                wanted = [new_images.not_yet_held(connection, scan_id, page) for scan_id in scan_ids]
            identities = {image.identity for each in wanted for image in each}
            return [image for image in page if image.identity in identities]

        yield from retry_database(sift)


def _nothing_in(listing: Listing) -> str:
    skipped, filters = listing.counts.n_skipped, listing.filters
    hint = f" ({skipped} other files skipped; use --include to add them)" if skipped else ""
    if skipped and (filters.include or filters.exclude):
        hint = f" ({skipped} files skipped; --include and --exclude select none of them)"
    hint = f" ({listing.counts.left_out[0]})" if listing.counts.left_out else hint
    return f"no images found in {', '.join(listing.names)}{hint}"
