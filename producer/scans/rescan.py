"""Rescans: enqueues the answers that a new champion may change as a scan of its own.

A rescan that was killed at any point can be run again: each page stores how far it got.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from celery import Celery

from producer.scans.enqueue import Enqueued, Notifier
from producer.sources.filters import GROWTH_LIMIT, PAGE_LIMIT
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.results import rescans
from scanfleet.db.results.rescans import Aim, Pool
from scanfleet.db.scans import batches, scans
from scanfleet.db.scans.batches import NewImage
from scanfleet.db.scans.checks import get_check
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import RequestError
from scanfleet.retry import retry_database

DEFAULT_WIDTH = 1.0  # logits
DEFAULT_AUDIT, LEAST_AUDIT, MOST_AUDIT = 0.05, 100, 2000  # a fraction of the rest, and images
BROAD_SHARE = 0.9  # of all answers: a selection of more selects nothing
# Origins of the band, as stored with a rescan.
MEASURED = "nine in ten margins of golden images moved less from the champion before to this one"
GIVEN = "as asked for"
NOT_MEASURED = "the default: how far margins of golden images moved was not measured"
ORIGINS = {  # for people
    MEASURED: "nine in ten margins moved less",
    GIVEN: "--band",
    NOT_MEASURED: "the default, since no margins of golden images were measured",
}
BEHIND_ALL = "g"  # sorts after every identity, which is hexadecimal

Cursor = dict[str, Any]  # part: changeable or audit; after, until: of image ids or identities; left: of the sample


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `rescan`. band: logits. audit: below 1 a fraction, else a number; None: the default."""

    everything: bool = False
    band: float | None = None
    audit: float | None = None
    seed: int = 0
    fresh: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the values that distinguish one rescan from another."""
        if self.everything:
            return {"all": True}
        return {"band": self.band, "audit": self.audit, "seed": self.seed}

    def audit_size(self, n_rest: int) -> int:
        """Return the number of answers to audit, of those that should not change."""
        if self.everything:
            return 0
        if self.audit is None:
            wanted = min(max(round(DEFAULT_AUDIT * n_rest), LEAST_AUDIT), MOST_AUDIT)
        else:
            wanted = round(self.audit * n_rest) if self.audit < 1 else int(self.audit)
        return min(wanted, n_rest)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The selection of a rescan. filters: every choice, as its scan stores them. known: the scan, if it exists."""

    root: ScanInfo
    check_hash: str
    aim: Aim
    identity: str
    filters: dict[str, Any]
    known: ScanInfo | None

    @property
    def n_images(self) -> int:
        return int(self.filters["changeable"] + self.filters["audit"])

    @property
    def n_answers(self) -> int:
        return int(self.filters["current"] + self.filters["changeable"] + self.filters["audit_of"])

    @property
    def band_origin(self) -> str:
        """The origin of the band, for people."""
        return ORIGINS.get(self.filters["band_from"], str(self.filters["band_from"]))

    @property
    def broad_reason(self) -> str | None:
        """The reason why the selection takes nearly every answer; None if it does not, or for --all."""
        chosen = self.filters
        if chosen["band"] is None or not self.n_images or self.n_images < BROAD_SHARE * self.n_answers:
            return None
        if chosen["audit"] > chosen["changeable"]:
            return "most of it is the audit sample (--audit takes fewer)"
        if chosen["band_from"] == MEASURED:
            return "the two models' margins differ too much to tell what can change (--band takes fewer)"
        return "most answers are `review` or within the band (--band takes fewer)"


def plan_rescan(engine: sa.Engine, scan_id: str, request: Request) -> Plan:
    """Select the answers of a scan, or of the one that a rescan renews. Writes nothing.

    Raises UnknownName; RequestError for a running scan or a cancelled rescan.
    """
    with reading(engine, long=True) as connection:
        root = rescans.root_of(connection, scan_id)
        if root.state == "running":
            raise RequestError(
                f"scan {root.id} is still running: wait for it (`scanfleet scans watch {root.id}`), "
                f"or stop it (`scanfleet scans pause {root.id}`)"
            )
        aim = rescans.aim_of(connection, root)
        identity = rescans.identity_of(root, aim, request.as_dict(), fresh=request.fresh)
        known = rescans.find_rescan(connection, identity)
        if known is not None:
            _refuse_cancelled(known)
        filters = _chosen(connection, root, aim, request) if known is None else known.filters
        check_hash = get_check(connection, root.check_id).hash
    return Plan(root=root, check_hash=check_hash, aim=aim, identity=identity, filters=filters, known=known)


def _chosen(connection: sa.Connection, root: ScanInfo, aim: Aim, request: Request) -> dict[str, Any]:
    width, width_from = _width(connection, aim, request)
    counts = _pool(root, aim.adapter_id, width).count(connection)
    return {
        "adapter": aim.adapter_id,
        "band": width,
        "band_from": width_from,
        "changeable": counts.n_changeable,
        "audit": request.audit_size(counts.n_rest),
        "audit_of": counts.n_rest,
        "current": counts.n_current,
        "seed": request.seed,
    }


def _width(connection: sa.Connection, aim: Aim, request: Request) -> tuple[float | None, str]:
    """Return the logits around a threshold, and the origin of the figure."""
    if request.everything:
        return None, "everything was asked for"
    if request.band is not None:
        return request.band, GIVEN
    move = rescans.margin_move(connection, aim)
    if move is None:
        return DEFAULT_WIDTH, NOT_MEASURED
    return move, MEASURED


def _pool(root: ScanInfo, adapter_id: int | None, width: float | None) -> Pool:
    return Pool(scan_id=root.id, check_id=root.check_id, adapter_id=adapter_id, width=width)


def enqueue_rescan(engine: sa.Engine, app: Celery, settings: Settings, plan: Plan) -> Iterator[Enqueued]:
    """Write the scan and its images, and notify the workers. Yields after each page; the last one is `ended`."""
    scan = plan.known or retry_database(lambda: _open(engine, plan))
    walk = _Walk(engine, settings, scan, plan.root, Notifier(engine, app, settings))
    yield walk.snapshot()
    size = settings.batch_images
    while not walk.ended:
        walk.step(size)
        yield walk.snapshot()
        size = max(settings.batch_images, min(2 * size, GROWTH_LIMIT * settings.batch_images, PAGE_LIMIT))


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
        self._pool = _pool(root, scan.filters["adapter"], scan.filters["band"])
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
            added = batches.add_images(
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
        connection.execute(sa.select(Scan.id).where(Scan.id == self._scan.id).with_for_update())
        scan = scans.get_scan(connection, self._scan.id)
        _refuse_cancelled(scan)
        return scan

    def snapshot(self) -> Enqueued:
        return Enqueued(
            scan=self._scan,
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


def _refuse_cancelled(scan: ScanInfo) -> None:
    if scan.state == "cancelled":
        raise RequestError(f"rescan {scan.id} was cancelled: start a new one with --fresh")
