"""What workers did, added up over all that ever were: such counts survive every worker. And those that live."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from scanfleet.db.scans.workers import live_workers
from scanfleet.db.tables import Training, Worker
from scanfleet.messages import TRAIN_QUEUE
from scanfleet.stats.stage_times import SECONDS


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Of one queue, since the ledger began. seconds: by name (scanfleet.stats.stage_times). n_ended: by themselves."""

    n_images: int
    n_started: int
    n_ended: int
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Living:
    """Workers of one queue that live. n_waiting: of these, those that cannot start. load_seconds: the longest."""

    n: int
    n_waiting: int
    load_seconds: float | None


def totals(connection: sa.Connection) -> dict[str, Totals]:
    """Return the totals by queue. Each worker is one row, so that this reads thousands, not millions."""
    sums = (sa.func.sum(Worker.seconds[name].as_float()).label(name) for name in SECONDS)
    query = sa.select(
        Worker.queue,
        sa.func.sum(Worker.n_images).label("n_images"),
        sa.func.count().label("n_started"),
        sa.func.count(Worker.ended_because).label("n_ended"),
        *sums,
    ).group_by(Worker.queue)
    return {
        row.queue: Totals(
            n_images=int(row.n_images or 0),
            n_started=row.n_started,
            n_ended=row.n_ended,
            seconds={name: float(row._mapping[name] or 0.0) for name in SECONDS},
        )
        for row in connection.execute(query)
    }


def living(connection: sa.Connection, *, silent_seconds: float) -> dict[str, Living]:
    """Return what lives, by queue."""
    n: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    load: dict[str, float] = {}
    for worker in live_workers(connection, silent_seconds=silent_seconds):
        n[worker.queue] += 1
        waiting[worker.queue] += worker.waiting_for is not None
        if worker.load_seconds is not None:
            load[worker.queue] = max(worker.load_seconds, load.get(worker.queue, 0.0))
    return {queue: Living(n=n[queue], n_waiting=waiting[queue], load_seconds=load.get(queue)) for queue in n}


def models_of_queues(connection: sa.Connection) -> dict[str, str]:
    """Queue -> model, as its workers named it; the queue of trainings serves any model."""
    query = (
        sa.select(Worker.queue, sa.func.max(Worker.model))
        .where(Worker.model.is_not(None), Worker.queue != TRAIN_QUEUE)
        .group_by(Worker.queue)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def trainings_by_state(connection: sa.Connection) -> dict[str, int]:
    query = sa.select(Training.state, sa.func.count()).group_by(Training.state)
    return {row[0]: row[1] for row in connection.execute(query)}
