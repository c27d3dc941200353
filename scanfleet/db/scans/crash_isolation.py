"""Find the image that kills its worker, without blaming the others of its batch.

An expired lease shows that a worker ended or froze, but not why. So the batch becomes a suspect, and a suspect runs
alone in its worker, image by image, each recorded in the ledger before it is read. When such a lease expires as well,
the recorded image is blamed. Blamed more often than `MAX_CRASHES`, it is quarantined: a failure with stage "process".
An image that merely shared a batch or a worker with it is never blamed; one with the same bytes is quarantined with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from scanfleet.db import leases
from scanfleet.db.engine import now
from scanfleet.db.scans import batches, failures
from scanfleet.db.scans.batches import Claim
from scanfleet.db.tables import Batch, Failure, Image, Worker
from scanfleet.errors import ImageError
from scanfleet.retry import backoff_seconds

MAX_CRASHES = 2  # an image may be worked on at the end of this many workers by chance
PATIENT_CRASHES = 2  # consecutive expired leases after which `waiting_for` names them
STAGE, KILLER = "process", "kills_the_worker"


@dataclass(frozen=True, kw_only=True)
class Expired:
    n: int = 0  # leases
    quarantined: tuple[int, ...] = ()  # images


def expire_leases(connection: sa.Connection) -> Expired:
    """Make batches with an expired lease ready again, as suspects. Safe to run in parallel."""
    return _expire(connection, None)


def expire_worker(connection: sa.Connection, *, host: str, pid: int) -> Expired:
    """Do the same for the batches of a process that has ended, without waiting for its leases to expire."""
    names = sa.select(Worker.id).where(Worker.host == host, Worker.pid == pid)
    return _expire(connection, Batch.lease_owner.in_(names))


def _expire(connection: sa.Connection, which: sa.ColumnElement[bool] | None) -> Expired:
    at = now(connection)
    rows = leases.expired(connection, Batch, (Batch.id, Batch.scan_id, Batch.in_hand, Batch.crashes), which)
    quarantined = []
    for row in rows:
        _free(connection, row.id, crashes=row.crashes + 1, at=at)
        if row.in_hand is not None and _blame(connection, row.in_hand) > MAX_CRASHES:
            _quarantine(connection, batch_id=row.id, scan_id=row.scan_id, image_id=row.in_hand, at=at)
            quarantined.append(row.in_hand)
    return Expired(n=len(rows), quarantined=tuple(quarantined))


def record_content(connection: sa.Connection, held: Claim, image_id: int, sha256: str) -> None:
    """Record the bytes of a blamed image before it is scored again. Raises LeaseLost."""
    batches.take_in_hand(connection, held, image_id)
    connection.execute(sa.update(Image).where(Image.id == image_id).values(content_sha256=sha256))


def lethal_content(connection: sa.Connection, scan_id: str, hashes: Collection[str]) -> dict[str, ImageError]:
    """Return errors for the bytes that already killed workers under another name in the same scan."""
    quarantined = (
        sa.select(Image.content_sha256, Image.uri)
        .join(Failure, Failure.image_id == Image.id)
        .where(Failure.scan_id == scan_id, Failure.stage == STAGE, Failure.reason == KILLER)
    )
    return {
        row.content_sha256: _killer(f"the same bytes as {row.uri}, which is quarantined")
        for row in connection.execute(quarantined)
        if row.content_sha256 in hashes
    }


def _killer(detail: str) -> ImageError:
    return ImageError(stage=STAGE, reason=KILLER, detail=detail)


def _free(connection: sa.Connection, batch_id: int, *, crashes: int, at: datetime) -> None:
    """Make a batch ready: at once after the first crash, whose cause is rarely an image, then after pauses."""
    again = crashes >= PATIENT_CRASHES
    connection.execute(
        sa.update(Batch)
        .where(Batch.id == batch_id)
        .values(
            **leases.READY,
            suspect=True,
            crashes=crashes,
            in_hand=None,
            not_before=at + timedelta(seconds=backoff_seconds(crashes - 1)) if again else None,
            waiting_for=f"a worker that survives batch {batch_id}: {crashes} in a row did not" if again else None,
        )
    )


def _blame(connection: sa.Connection, image_id: int) -> int:
    """Blame an image. Returns the number of workers that ended while working on it."""
    connection.execute(sa.update(Image).where(Image.id == image_id).values(crashes=Image.crashes + 1))
    return connection.execute(sa.select(Image.crashes).where(Image.id == image_id)).scalar_one()


def _quarantine(connection: sa.Connection, *, batch_id: int, scan_id: str, image_id: int, at: datetime) -> None:
    detail = f"{MAX_CRASHES + 1} workers ended or froze while they worked on this image alone"
    failures.record(connection, scan_id=scan_id, failures={image_id: _killer(detail)})
    this = Batch.id == batch_id
    found = {"crashes": 0, "not_before": None, "waiting_for": None}  # the cause is known now
    connection.execute(sa.update(Batch).where(this).values(n_failures=Batch.n_failures + 1, **found))
    pending = sa.exists().where(Image.batch_id == batch_id, Image.state == "pending")
    connection.execute(sa.update(Batch).where(this, ~pending).values(state="done", finished_at=at))
