"""Workers as rows: who is there, since when, and where its time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.db.clock import Moment, happened_since
from scanfleet.db.engine import moment, now
from scanfleet.db.scans import webhooks
from scanfleet.db.tables import Batch, Promotion, Scan, Training, Worker


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    id: str
    host: str
    pid: int
    queue: str
    device: str
    started_at: datetime
    beat_at: datetime
    n_images: int
    seconds: dict[str, Any] | None  # sums by name (scanfleet.stats.stage_times) since the start
    waiting_for: str | None  # the error, while it cannot start
    ready_at: datetime | None  # when it could take its first batch; None: it loads, or is of a release before
    load_seconds: float | None  # from its start to then
    drain_at: datetime | None  # when a person asked it to end


@dataclass(frozen=True, kw_only=True)
class News:
    """What a worker learns with its heartbeat. The defaults make it look for itself."""

    open: bool = True  # something has not ended
    ready: bool = True  # of it, a batch that no worker has
    attended: bool = False  # another worker reconciles
    webhooks: bool = True  # one is due
    promotion: int | None = None  # the id of the newest, 0 where there is none; None: it is not known
    drain: bool = False  # a person asked this worker to finish its batches and end


def start_worker(
    connection: sa.Connection, *, worker: str, host: str, pid: int, queue: str, device: str, model: str | None = None
) -> None:
    at = now(connection)
    row = {"id": worker, "host": host, "pid": pid, "queue": queue, "device": device, "model": model}
    connection.execute(sa.insert(Worker).values(row | {"n_images": 0, "started_at": at, "beat_at": at}))


def beat(
    connection: sa.Connection, *, worker: str, n_images: int, seconds: Mapping[str, float], progressed: bool
) -> None:
    """Record a heartbeat, and the totals since the start.

    progressed: whether the worker made progress since the last heartbeat.
    """
    at = moment(connection)
    values: dict[str, Any] = {"beat_at": at, "n_images": n_images, "seconds": dict(seconds)}
    if progressed:
        values["progress_at"] = at
    connection.execute(sa.update(Worker).where(Worker.id == worker).values(values))


def read_news(connection: sa.Connection, worker: str, *, within_seconds: float) -> News:
    """Return what the timers of a worker would ask the database for one by one. within_seconds: see `attended`."""
    at = moment(connection)
    news = sa.select(
        anything_open().label("open"),
        _any_ready().label("ready"),
        attended(at, worker=worker, within_seconds=within_seconds).label("attended"),
        webhooks.any_due(at).label("webhooks"),
        sa.select(sa.func.coalesce(sa.func.max(Promotion.id), 0)).scalar_subquery().label("promotion"),
        sa.exists().where(Worker.id == worker, Worker.drain_at.is_not(None)).label("drain"),
    )
    return News(**connection.execute(news).one()._mapping)


def anything_open() -> sa.ColumnElement[bool]:
    """Whether there is a scan or a training that has not ended: else no notification or lease can be lost."""
    scan = sa.exists().where(Scan.state.in_(("running", "paused")))
    return sa.or_(scan, sa.exists().where(Training.state.in_(("ready", "leased"))))


def _any_ready() -> sa.ColumnElement[bool]:
    ready = sa.select(Batch.id).join(Scan, Scan.id == Batch.scan_id)
    return ready.where(Batch.state == "ready", Scan.state == "running").exists()


def attended(at: Moment, *, worker: str | None, within_seconds: float) -> sa.ColumnElement[bool]:
    """Whether another living worker has reconciled within these seconds, and this one not since."""
    other, this = orm.aliased(Worker), orm.aliased(Worker)
    recent = happened_since(other.reconciled_at, at - timedelta(seconds=within_seconds), at)
    since = sa.exists().where(this.id == worker, this.reconciled_at >= other.reconciled_at)
    return sa.exists().where(recent, other.stopped_at.is_(None), other.id != (worker or ""), ~since)


def mark_reconciled(connection: sa.Connection, worker: str) -> None:
    """Record that the worker has reconciled, so that others leave it to this one."""
    at = moment(connection)
    connection.execute(sa.update(Worker).where(Worker.id == worker).values(reconciled_at=at))


def set_waiting(connection: sa.Connection, worker: str, waiting_for: str) -> None:
    """Record the transient error that keeps the worker from starting."""
    connection.execute(sa.update(Worker).where(Worker.id == worker).values(waiting_for=waiting_for))


def set_ready(
    connection: sa.Connection,
    worker: str,
    *,
    device: str,
    kind: str | None = None,
    load_seconds: float | None = None,
) -> None:
    """Record that the worker can start. kind: the card's name. load_seconds: since its start."""
    ready = {"ready_at": now(connection), "device_kind": kind, "load_seconds": load_seconds}
    values = {"waiting_for": None, "device": device} | ready
    connection.execute(sa.update(Worker).where(Worker.id == worker).values(values))


def ask_to_drain(connection: sa.Connection, workers: Sequence[str]) -> list[str]:
    """Ask these workers to finish their batches and end. Returns those that had not stopped.

    Each reads it with its next heartbeat, so it needs no broker.
    """
    going = sa.update(Worker).where(Worker.id.in_(workers), Worker.stopped_at.is_(None))
    return sorted(connection.execute(going.values(drain_at=now(connection)).returning(Worker.id)).scalars())


def stop_worker(connection: sa.Connection, worker: str, *, because: str | None = None) -> None:
    """Record the end of the worker. because: why it ended itself; None: it was asked to stop."""
    ended = {"stopped_at": now(connection), "ended_because": because}
    connection.execute(sa.update(Worker).where(Worker.id == worker).values(ended))


def last_end(connection: sa.Connection, queue: str) -> str | None:
    """Return why the newest worker of a queue ended itself; None: there is none, it runs, or it was stopped."""
    query = sa.select(Worker.ended_because).where(Worker.queue == queue).order_by(Worker.started_at.desc()).limit(1)
    return connection.execute(query).scalar_one_or_none()


def ended_workers(connection: sa.Connection, *, silent_seconds: float, within_seconds: float) -> dict[str, str]:
    """Return the newest worker of each queue that ended itself in this time, with the reason, where none is live."""
    live = {worker.queue for worker in live_workers(connection, silent_seconds=silent_seconds)}
    since = now(connection) - timedelta(seconds=within_seconds)
    query = sa.select(Worker.id, Worker.queue, Worker.ended_because).where(Worker.started_at >= since)
    newest = {row.queue: row for row in connection.execute(query.order_by(Worker.started_at))}
    return {row.id: row.ended_because for row in newest.values() if row.ended_because and row.queue not in live}


def live_workers(connection: sa.Connection, *, silent_seconds: float) -> list[WorkerInfo]:
    """Return the workers that have not stopped, with a heartbeat within `silent_seconds`."""
    since = now(connection) - timedelta(seconds=silent_seconds)
    columns = [Worker.__table__.c[wanted.name] for wanted in fields(WorkerInfo)]
    query = sa.select(*columns).where(Worker.stopped_at.is_(None), Worker.beat_at >= since).order_by(Worker.id)
    return [WorkerInfo(**row._mapping) for row in connection.execute(query)]
