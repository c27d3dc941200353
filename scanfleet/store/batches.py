"""The life of a batch: added, claimed under a lease, settled or given back, and found again when its worker died.

The lease token grows with every claim. Whoever writes must name the current one, so a worker that was away for longer
than its lease changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from scanfleet.errors import LeaseLost
from scanfleet.store.engine import now
from scanfleet.store.tables import Batch, Image, Scan

MAX_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """One image on its way into the ledger."""

    uri: str
    root: str | None = None
    etag: str | None = None
    size: int | None = None
    meta: dict[str, Any] | None = None

    @property
    def identity(self) -> str:
        return hashlib.sha256(f"{self.uri}\0{self.etag or ''}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ClaimedImage:
    id: int
    uri: str
    root: str | None
    etag: str | None
    identity: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A batch held under a lease, with the images that still need an answer."""

    batch_id: int
    scan_id: str
    check_id: int
    token: int
    attempts: int
    images: tuple[ClaimedImage, ...]


def add_images(
    connection: sa.Connection,
    *,
    scan_id: str,
    queue: str,
    images: Sequence[NewImage],
    batch_images: int,
    at_most: int | None = None,
) -> list[int]:
    """Write the images that the scan does not hold yet, in batches, `at_most` so many.

    Returns the ids of the new batches.
    """
    fresh = not_yet_held(connection, scan_id, images)[:at_most]
    chunks = [fresh[start : start + batch_images] for start in range(0, len(fresh), batch_images)]
    ids = []
    for chunk in chunks:
        batch_id = connection.execute(
            sa.insert(Batch)
            .values(scan_id=scan_id, queue=queue, state="ready", n_images=len(chunk))
            .returning(Batch.id)
        ).scalar_one()
        ids.append(batch_id)
        rows = [
            {
                "scan_id": scan_id,
                "batch_id": batch_id,
                "uri": image.uri,
                "root": image.root,
                "etag": image.etag,
                "size": image.size,
                "identity": image.identity,
                "meta": image.meta,
                "state": "pending",
            }
            for image in chunk
        ]
        connection.execute(sa.insert(Image), rows)
    return ids


def not_yet_held(connection: sa.Connection, scan_id: str, images: Sequence[NewImage]) -> list[NewImage]:
    """Those images that the scan does not hold, each once."""
    by_identity = {image.identity: image for image in images}  # a manifest may name an image twice
    query = sa.select(Image.identity).where(Image.scan_id == scan_id, Image.identity.in_(list(by_identity)))
    for held in connection.execute(query).scalars():
        del by_identity[held]
    return list(by_identity.values())


def claim(
    connection: sa.Connection, *, queue: str, worker: str, lease_seconds: float, rung: int | None = None
) -> Claim | None:
    """Lease the batch that was rung for, or any other ready one of the queue; None when there is none."""
    at = now(connection)
    claimable = (
        Batch.queue == queue,
        Batch.state == "ready",
        sa.or_(Batch.not_before.is_(None), Batch.not_before <= at),
        Scan.state == "running",
    )
    preferences: list[tuple[sa.ColumnElement[bool], ...]] = [claimable]
    if rung is not None:
        preferences.insert(0, (*claimable, Batch.id == rung))
    for wanted in preferences:
        pick = (
            sa.select(Batch.id)
            .join(Scan, Scan.id == Batch.scan_id)
            .where(*wanted)
            .order_by(Batch.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=Batch)
        )
        row = connection.execute(
            sa.update(Batch)
            .where(Batch.id == pick.scalar_subquery(), Batch.state == "ready")
            .values(
                state="leased",
                lease_owner=worker,
                lease_until=at + timedelta(seconds=lease_seconds),
                lease_token=Batch.lease_token + 1,
                attempts=Batch.attempts + 1,
            )
            .returning(Batch.id, Batch.scan_id, Batch.lease_token, Batch.attempts)
        ).one_or_none()
        if row is not None:
            return _load(connection, row)
    return None


def _load(connection: sa.Connection, row: sa.Row[tuple[int, str, int, int]]) -> Claim:
    columns = (Image.id, Image.uri, Image.root, Image.etag, Image.identity)
    pending = sa.select(*columns).where(Image.batch_id == row.id, Image.state == "pending").order_by(Image.id)
    check_id = connection.execute(sa.select(Scan.check_id).where(Scan.id == row.scan_id)).scalar_one()
    return Claim(
        batch_id=row.id,
        scan_id=row.scan_id,
        check_id=check_id,
        token=row.lease_token,
        attempts=row.attempts,
        images=tuple(ClaimedImage(**image._mapping) for image in connection.execute(pending)),
    )


def has_ready(connection: sa.Connection, queue: str) -> bool:
    """Whether `claim` would find a batch in this queue now."""
    due = sa.or_(Batch.not_before.is_(None), Batch.not_before <= now(connection))
    ready = sa.select(Batch.id).join(Scan, Scan.id == Batch.scan_id)
    ready = ready.where(Batch.queue == queue, Batch.state == "ready", Scan.state == "running", due)
    return connection.execute(ready.limit(1)).first() is not None


def extend(connection: sa.Connection, held: Claim, *, lease_seconds: float) -> None:
    """Heartbeat: prolong a lease. Raises LeaseLost when it is no longer ours."""
    _touch(connection, held, lease_until=now(connection) + timedelta(seconds=lease_seconds))


def settle(connection: sa.Connection, held: Claim, *, values: dict[str, Any], waiting_for: str | None) -> None:
    """End this attempt: the batch is done, or, while the world keeps images waiting, ready again after a back-off.

    `values`: further columns (counts, scorer, seconds). Must be the first statement of the writing transaction: it
    raises LeaseLost unless the token is the current one.
    """
    at = now(connection)
    if waiting_for is None:
        values = values | {"state": "done", "finished_at": at, "waiting_for": None}
    else:
        delay = backoff_seconds(held.attempts)
        values = values | {
            "state": "ready",
            "not_before": at + timedelta(seconds=delay),
            "waiting_for": waiting_for,
            "rung_at": None,
        }
    _touch(connection, held, lease_owner=None, lease_until=None, **values)


def give_back(connection: sa.Connection, held: Claim) -> None:
    """Return an untouched batch at once: the worker is stopping. The attempt does not count."""
    _touch(
        connection,
        held,
        state="ready",
        lease_owner=None,
        lease_until=None,
        rung_at=None,
        attempts=Batch.attempts - 1,
    )


def _touch(connection: sa.Connection, held: Claim, **values: Any) -> None:
    touched = connection.execute(
        sa.update(Batch)
        .where(Batch.id == held.batch_id, Batch.lease_token == held.token, Batch.state == "leased")
        .values(values)
    )
    if touched.rowcount != 1:
        raise LeaseLost(f"batch {held.batch_id}: lease {held.token} is no longer the current one")


def backoff_seconds(attempts: int) -> float:
    """1, 2, 4 ... 60 seconds."""
    return float(min(2.0 ** max(attempts - 1, 0), MAX_BACKOFF_SECONDS))


def expire_leases(connection: sa.Connection) -> int:
    """Make batches of workers that went silent ready again. Safe to run in parallel. Returns how many."""
    freed = connection.execute(
        sa.update(Batch)
        .where(Batch.state == "leased", Batch.lease_until < now(connection))
        .values(state="ready", lease_owner=None, lease_until=None, rung_at=None)
    )
    return freed.rowcount


def due_for_ring(
    connection: sa.Connection, *, ring_again_seconds: float, max_outstanding: int
) -> list[tuple[int, str]]:
    """Ready batches that nobody rang for lately, as (batch id, queue), and marks them as rung.

    At most so many that the rings under way stay below `max_outstanding`.
    """
    at = now(connection)
    stale = at - timedelta(seconds=ring_again_seconds)
    ready = (Batch.state == "ready", Scan.state == "running")
    outstanding = connection.execute(
        sa.select(sa.func.count())
        .select_from(Batch)
        .join(Scan, Scan.id == Batch.scan_id)
        .where(*ready, Batch.rung_at >= stale)
    ).scalar_one()
    if outstanding >= max_outstanding:
        return []
    due = connection.execute(
        sa.select(Batch.id, Batch.queue)
        .join(Scan, Scan.id == Batch.scan_id)
        .where(
            *ready,
            sa.or_(Batch.rung_at.is_(None), Batch.rung_at < stale),
            sa.or_(Batch.not_before.is_(None), Batch.not_before <= at),
        )
        .order_by(Batch.id)
        .limit(max_outstanding - outstanding)
        .with_for_update(skip_locked=True, of=Batch)
    ).all()
    mark_rung(connection, [row.id for row in due], at=at)
    return [(row.id, row.queue) for row in due]


def mark_rung(connection: sa.Connection, batch_ids: Sequence[int], *, at: datetime | None) -> None:
    """Remember when batches were rung for; None: they were not, after all."""
    if batch_ids:
        connection.execute(sa.update(Batch).where(Batch.id.in_(batch_ids)).values(rung_at=at))
