"""Recover trainings from lost notifications and lost workers. Safe to run in parallel."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import sqlalchemy as sa

from scanfleet.db import leases
from scanfleet.db.clock import Moment, happened_since
from scanfleet.db.engine import now
from scanfleet.db.tables import Training, Worker
from scanfleet.db.training.trainings import COLUMNS, TrainingInfo, lost
from scanfleet.messages import TRAIN_QUEUE

ALIVE_SECONDS = 60.0  # a training worker with a heartbeat this young receives notifications

mark_notified = partial(leases.mark_notified, table=Training)


def expire_leases(connection: sa.Connection) -> list[int]:
    """Make trainings with an expired lease ready again, or failed. Returns their ids."""
    rows = leases.expired(connection, Training, COLUMNS)
    for row in rows:
        lost(connection, TrainingInfo(**row._mapping))
    return [row.id for row in rows]


def due_for_notification(connection: sa.Connection, *, renotify_seconds: float) -> list[int]:
    """Find ready trainings without a recent notification, and mark them as notified.

    A second notification is sent only while a training worker lives. There may be none for days, and messages would
    pile up.
    """
    at = now(connection)
    query = sa.select(Training.id).where(_due(at, renotify_seconds))
    query = query.order_by(Training.id).with_for_update(skip_locked=True, key_share=True)
    found = list(connection.execute(query).scalars())
    mark_notified(connection, found, at=at)
    return found


def any_due(at: Moment, *, renotify_seconds: float) -> sa.ColumnElement[bool]:
    """Whether `due_for_notification` may find a training."""
    return sa.exists().where(_due(at, renotify_seconds))


def _due(at: Moment, renotify_seconds: float) -> sa.ColumnElement[bool]:
    alive = sa.exists().where(
        Worker.queue == TRAIN_QUEUE,
        Worker.stopped_at.is_(None),
        happened_since(Worker.beat_at, at - timedelta(seconds=ALIVE_SECONDS), at),
    )
    stale = sa.and_(~leases.recently_notified(Training, renotify_seconds, at), alive)
    return sa.and_(leases.claimable(Training, at), sa.or_(Training.notified_at.is_(None), stale))
