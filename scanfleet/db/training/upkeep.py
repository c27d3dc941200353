"""What makes a lost knock or worker harmless to trainings: expired leases, rings. Safe to run in parallel."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import sqlalchemy as sa

from scanfleet.db.clock import backoff_over, happened_since, lease_expired
from scanfleet.db.engine import now
from scanfleet.db.tables import Training, Worker
from scanfleet.db.training.trainings import COLUMNS, TrainingInfo, lost
from scanfleet.messages import TRAIN_QUEUE

ALIVE_SECONDS = 60.0  # a training worker that gave a sign lately hears a knock


def expire_leases(connection: sa.Connection) -> list[int]:
    """Trainings of workers that went silent go on with another one. Returns their ids."""
    silent = sa.select(*COLUMNS).where(Training.state == "leased", lease_expired(Training.lease_until, now(connection)))
    rows = connection.execute(silent.with_for_update(skip_locked=True)).all()
    for row in rows:
        lost(connection, TrainingInfo(**row._mapping))
    return [row.id for row in rows]


def due_for_notification(connection: sa.Connection, *, renotify_seconds: float) -> list[int]:
    """Ready trainings that nobody rang for lately, and marks them as rung.

    Rung for a second time only while a training worker lives: there may be none for days, and knocks would pile up.
    """
    at = now(connection)
    lately = happened_since(Training.notified_at, at - timedelta(seconds=renotify_seconds), at)
    alive = sa.exists().where(
        Worker.queue == TRAIN_QUEUE,
        Worker.stopped_at.is_(None),
        happened_since(Worker.beat_at, at - timedelta(seconds=ALIVE_SECONDS), at),
    )
    unnotified = sa.or_(Training.notified_at.is_(None), sa.and_(~lately, alive))
    query = sa.select(Training.id).where(Training.state == "ready", backoff_over(Training.not_before, at), unnotified)
    found = list(connection.execute(query.order_by(Training.id).with_for_update(skip_locked=True)).scalars())
    mark_notified(connection, found, at=at)
    return found


def mark_notified(connection: sa.Connection, training_ids: Collection[int], *, at: datetime | None) -> None:
    """Remember when trainings were rung for; None: they were not, after all."""
    if training_ids:
        connection.execute(sa.update(Training).where(Training.id.in_(training_ids)).values({"notified_at": at}))
