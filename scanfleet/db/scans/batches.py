"""Batches: claim under a lease (scanfleet.db.leases), settle or give back."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.db import leases
from scanfleet.db.clock import Moment, backoff_over, moment
from scanfleet.db.leases import Later, Plus
from scanfleet.db.scans.passes import read_elsewhere
from scanfleet.db.scans.source_breaker import on_hold
from scanfleet.db.tables import Batch, Failure, Image, Scan
from scanfleet.errors import LeaseLost
from scanfleet.messages import old_score_queue, score_queue

Columns = Sequence[sa.ColumnElement[Any]]


@dataclass(frozen=True, slots=True)
class ClaimedImage:
    id: int
    uri: str
    root: str | None
    etag: str | None
    identity: str
    seen_etag: str | None = None
    crashes: int = 0  # workers that ended while working on this image
    rescan_of: int | None = None  # the image that this one rescans

    @property
    def pin(self) -> str | None:
        """The etag of the version to read: the listed one, else that of the first reading."""
        return self.etag or self.seen_etag


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A batch held under a lease, with its pending images: those never blamed for a crash first."""

    batch_id: int
    scan_id: str
    check_id: int
    worker: str
    token: int
    attempts: int
    images: tuple[ClaimedImage, ...]
    lease_seconds: float
    scan_created_at: datetime
    roots: Mapping[str, str]  # the ids of listed folders
    suspect: bool  # an earlier lease expired: run it alone, image by image
    seconds: dict[str, Any] | None  # sums by name, of the previous attempt
    pass_id: str | None  # of its scan


def claim(
    connection: sa.Connection,
    *,
    model: str,
    worker: str,
    lease_seconds: float,
    notified: int | None = None,
    only: bool = False,
) -> Claim | None:
    """Lease the notified batch, or, unless `only` that one is wanted, any other ready one; None when there is none.

    An urgent batch comes before the notified one, unless only that one is wanted.

    A batch whose images another worker reads for a scan of the same pass is left to it.
    Of a scan whose store is unavailable, lease only a notified batch, as a probe, and one at a time.
    """
    changes = _claiming(connection.dialect.name, model, lease_seconds, named=notified is not None, only=only)
    row = leases.claim(connection, changes, worker=worker, notified=notified)
    return None if row is None else _load(connection, row, worker=worker, lease_seconds=lease_seconds)


@cache
def _claiming(
    dialect_name: str, model: str, lease_seconds: float, *, named: bool, only: bool
) -> tuple[leases.Change, ...]:
    """The claims to try in turn. named: the first is that of the `notified` batch."""
    at = moment(dialect_name)
    others = [sa.and_(_claimable(model, at), Batch.queue == queue, ~on_hold()) for queue in _queues(model)]
    # New batches before those that failed before: a few that always fail and have low ids would come first forever.
    preferences = [] if only else [*(sa.and_(other, Batch.attempts == 0) for other in others), *others]
    ready = sa.select(Batch.id).join(Scan, Scan.id == Batch.scan_id)
    choices = [ready.where(wanted) for wanted in preferences]  # by id alone, as the index has them
    if named:
        this = Batch.id == sa.bindparam("b_notified")
        first = sa.and_(
            _claimable(model, at), Batch.queue.in_(_queues(model)), this if only else sa.or_(this, _urgent())
        )
        first = sa.and_(first, sa.or_(~on_hold(), ~_probed()))
        # An urgent batch goes before the notified one, whose turn comes with the urgent one's notification.
        choices.insert(0, ready.where(first).order_by(Batch.urgent.is_(None)))
    lease: dict[str, Any] = {"lease_seconds": lease_seconds, "returning": _LEASED}
    return tuple(leases.claiming(dialect_name, Batch, choice, **lease) for choice in choices)


def _urgent() -> sa.ColumnElement[bool]:
    """Written so that both databases see that the partial index of urgent batches holds them all."""
    return sa.and_(Batch.urgent.is_not(None), Batch.state == sa.literal("ready", literal_execute=True))


def _queues(model: str) -> list[str]:
    """Return the queues that hold batches of a model, and maybe those of others; the old one ends first."""
    return list(dict.fromkeys((old_score_queue(model), score_queue(model))))


def _claimable(model: str, at: Moment) -> sa.ColumnElement[bool]:
    """Whether a batch is ready and of this very model: queues of old releases hold batches of several."""
    scan_ready = (Scan.state == "running", backoff_over(Scan.not_before, at), Scan.model == model)
    return sa.and_(leases.claimable(Batch, at), *scan_ready, ~read_elsewhere())


def _probed() -> sa.ColumnElement[bool]:
    other = orm.aliased(Batch)
    return sa.exists().where(other.scan_id == Scan.id, other.state == "leased")


_CLAIMED = (
    Image.id, Image.uri, Image.root, Image.etag, Image.identity, Image.seen_etag, Image.crashes, Image.rescan_of,
)  # fmt: skip  # as the fields of ClaimedImage
_PENDING = (
    sa.select(*_CLAIMED)
    .where(Image.batch_id == sa.bindparam("batch"), Image.state == "pending")
    .order_by(Image.crashes, Image.id)
)


def _of_scan(column: orm.InstrumentedAttribute[Any]) -> sa.Label[Any]:
    return sa.select(column).where(Scan.id == Batch.scan_id).correlate(Batch).scalar_subquery().label(column.key)


_LEASED = (
    *(Batch.id, Batch.scan_id, Batch.lease_token, Batch.attempts, Batch.suspect, Batch.seconds),
    *map(_of_scan, (Scan.check_id, Scan.created_at, Scan.roots, Scan.pass_id)),
)


def delivered_lately(connection: sa.Connection, scan_id: str, *, limit: int = 200) -> list[ClaimedImage]:
    """Return images of a scan whose bytes were read: those with a verdict, then failures; those added last first."""
    judged = sa.select(*_CLAIMED).where(Image.scan_id == scan_id, Image.state == "verdict")
    failed = sa.select(*_CLAIMED).join(Failure, Failure.image_id == Image.id)
    failed = failed.where(Failure.scan_id == scan_id, sa.or_(Failure.stage != "fetch", Failure.reason == "too_large"))
    queries = [query.order_by(Image.id.desc()).limit(limit) for query in (judged, failed)]
    return [ClaimedImage(*image) for query in queries for image in connection.execute(query)]


def pin(connection: sa.Connection, versions: Mapping[int, str], sizes: Mapping[int, int | None]) -> None:
    """Record the versions that were read of images that were listed without one, by id, and their bytes."""
    if versions:
        seen = sa.update(Image).where(Image.id == sa.bindparam("b_image"), Image.seen_etag.is_(None))
        rows = [
            {"b_image": image_id, "b_etag": etag, "b_size": sizes.get(image_id)} for image_id, etag in versions.items()
        ]
        size = sa.func.coalesce(Image.size, sa.bindparam("b_size", type_=Image.size.type))
        connection.execute(seen.values(seen_etag=sa.bindparam("b_etag"), size=size), rows)


def _load(connection: sa.Connection, row: sa.Row[Any], *, worker: str, lease_seconds: float) -> Claim:
    # A statement of its own: that of the lease may not see what was written before the batch was free.
    found = connection.execute(_PENDING, {"batch": row.id})
    return Claim(
        batch_id=row.id,
        scan_id=row.scan_id,
        check_id=row.check_id,
        worker=worker,
        token=row.lease_token,
        attempts=row.attempts,
        images=tuple(ClaimedImage(*image) for image in found),
        lease_seconds=lease_seconds,
        scan_created_at=row.created_at,
        roots=row.roots or {},
        seconds=row.seconds,
        suspect=row.suspect,
        pass_id=row.pass_id,
    )


def has_ready(connection: sa.Connection, model: str) -> bool:
    """Return True if `claim` would find a batch of this model now, without a notification."""
    ready = sa.select(Batch.id).join(Scan, Scan.id == Batch.scan_id)
    ready = ready.where(_claimable(model, moment(connection.dialect.name)), Batch.queue.in_(_queues(model)), ~on_hold())
    return connection.execute(ready.limit(1)).first() is not None


class LeaseState(enum.Enum):
    """The state of the lease of a batch that a worker holds."""

    HELD = enum.auto()
    PAUSED = enum.auto()
    LOST = enum.auto()


def lease_states(connection: sa.Connection, claims: Sequence[Claim]) -> dict[int, LeaseState]:
    """Return by batch id: held, held but of a paused scan, or lost (cancelled, or leased by another worker)."""
    columns = (Batch.id, Batch.lease_token, Batch.lease_owner, Batch.state, Batch.scan_id)
    query = sa.select(*columns, Scan.state.label("scan_state"))
    query = query.join(Scan, Scan.id == Batch.scan_id).where(Batch.id.in_([held.batch_id for held in claims]))
    rows = {row.id: row for row in connection.execute(query)}
    return {held.batch_id: _lease_state(held, rows.get(held.batch_id)) for held in claims}


def _lease_state(held: Claim, row: sa.Row[Any] | None) -> LeaseState:
    ours = (held.token, held.worker, held.scan_id)
    if row is None or row.state != "leased" or (row.lease_token, row.lease_owner, row.scan_id) != ours:
        return LeaseState.LOST
    return LeaseState.PAUSED if row.scan_state == "paused" else LeaseState.HELD


def extend(connection: sa.Connection, held: Claim, *, lease_seconds: float) -> None:
    """Extend a lease, as a heartbeat. Raises LeaseLost."""
    _touch(connection, held, lease_until=Later(lease_seconds))
    require_images(connection, held)


_others = orm.aliased(Batch)
_OPEN = (_others.scan_id == Batch.scan_id, _others.id != Batch.id, _others.state.in_(("ready", "leased")))
_LAST = (~sa.exists().where(*_OPEN).correlate(Batch)).label("last")
_TROUBLE = _of_scan(Scan.trouble)


def settle(
    connection: sa.Connection, held: Claim, *, values: dict[str, Any], waiting_for: str | None, returning: Columns = ()
) -> sa.Row[Any]:
    """End this attempt: the batch is done, or, after a transient error, ready again after a back-off.

    `values`: further columns (counts, scorer, seconds). Must be the first statement of the writing transaction: it
    raises LeaseLost unless the lease is the current one.

    Returns, as `go_on` and `give_back`: `last`, whether no other batch of the scan is open as far as this transaction
    sees, `trouble` of the scan (scanfleet.db.scans.source_breaker), and what the caller wants.
    """
    if waiting_for is None:
        values = values | leases.FREE | {"state": "done", "finished_at": Later(), "waiting_for": None}
    else:
        values = values | leases.after_backoff(n=held.attempts, waiting_for=waiting_for)
    return _touch(connection, held, in_hand=None, worker=held.worker, returning=returning, **values)


def in_hand_of(connection: sa.Connection, held: Claim) -> int | None:
    """Return the image that a suspect batch works on, as the ledger has it."""
    return connection.execute(sa.select(Batch.in_hand).where(Batch.id == held.batch_id)).scalar_one_or_none()


def take_in_hand(connection: sa.Connection, held: Claim, image_id: int) -> None:
    """Record the next image of a suspect batch: it is blamed if this lease expires. Raises LeaseLost."""
    go_on(connection, held, values={}, in_hand=image_id)


def go_on(
    connection: sa.Connection, held: Claim, *, values: dict[str, Any], in_hand: int, returning: Columns = ()
) -> sa.Row[Any]:
    """Keep the lease after a part of the batch was written, and record the next image. Raises LeaseLost.

    The lease begins anew: if it had expired unnoticed, the wrong image would be blamed.
    """
    until = Later(held.lease_seconds)
    seen = _touch(connection, held, in_hand=in_hand, lease_until=until, returning=returning, **values)
    require_images(connection, held)
    return seen


def give_back(
    connection: sa.Connection, held: Claim, *, values: dict[str, Any], returning: Columns = ()
) -> sa.Row[Any]:
    """Make a batch ready at once, with its pending images. The attempt does not count. Raises LeaseLost."""
    ready = leases.READY | {"attempts": Plus(-1), "in_hand": None}
    return _touch(connection, held, returning=returning, **ready, **values)


def _touch(connection: sa.Connection, held: Claim, *, returning: Columns = (), **values: Any) -> sa.Row[Any]:
    lease: dict[str, Any] = {"token": held.token, "owner": held.worker, "same": {"scan_id": held.scan_id}}
    wanted = (_LAST, _TROUBLE, *returning)
    return leases.touch(connection, Batch, held.batch_id, returning=wanted, **lease, **values)


def require_images(connection: sa.Connection, held: Claim) -> None:
    """Raise LeaseLost if ids of the claim are of other images: a restored database gives those of lost ones away."""
    query = sa.select(Image.id, Image.identity, Image.rescan_of).where(Image.batch_id == held.batch_id)
    found = {row.id: (row.identity, row.rescan_of) for row in connection.execute(query)}
    for image in held.images:
        if found.get(image.id) != (image.identity, image.rescan_of):
            raise LeaseLost(f"batch {held.batch_id}: image {image.id} is not the one that was claimed")


def reopen_if_pending(connection: sa.Connection, held: Claim) -> None:
    """Make a batch ready again that was settled with pending images.

    A database that was restored lost the parts of a suspect batch that its worker wrote before.
    """
    pending = sa.exists().where(Image.batch_id == held.batch_id, Image.state == "pending")
    again = sa.update(Batch).where(Batch.id == held.batch_id, Batch.state == "done", pending)
    connection.execute(again.values(**leases.READY, finished_at=None))
