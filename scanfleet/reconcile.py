"""What makes a lost message harmless. Every worker and every waiting producer runs it on a timer, in parallel.

It reads the ledger alone: leases that ran out become ready batches and trainings, ready ones that nobody rang for are
rung for again, and scans whose last batch was settled are marked done.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
import structlog
from celery import Celery

from scanfleet.config.settings import Settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans import crash_isolation, notifications, scans
from scanfleet.db.training import upkeep
from scanfleet.errors import BrokerUnavailable
from scanfleet.queue.app import notify, notify_training

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    expired: int  # leases
    notified: int  # batches
    finished: int  # scans


def reconcile_once(engine: sa.Engine, app: Celery, settings: Settings) -> Reconciled:
    """One round. Raises DatabaseUnavailable; a broker that is away costs a warning and the next round tries again."""
    with transaction(engine) as connection:
        expired = crash_isolation.expire_leases(connection)
        finished = scans.finish_all_complete(connection)
        due = notifications.due_for_notification(
            connection,
            renotify_seconds=settings.renotify_seconds,
            max_outstanding=settings.max_outstanding_notifications,
        )
        silent = upkeep.expire_leases(connection)
        trainings = upkeep.due_for_notification(connection, renotify_seconds=settings.renotify_seconds)
    if silent:
        log.warning("training_leases_expired", trainings=silent)
    if expired.n:
        log.warning("leases_expired", n=expired.n)
    if expired.quarantined:
        log.error("images_quarantined", images=expired.quarantined, reason=crash_isolation.KILLER)
    _notify_trainings(engine, app, trainings)
    return Reconciled(expired=expired.n, notified=notify_all(engine, app, due), finished=finished)


def notify_all(engine: sa.Engine, app: Celery, due: list[tuple[int, str]]) -> int:
    """Ring for batches already marked as rung, after their commit. Those that did not go out are unmarked."""
    for n_notified, (batch_id, queue) in enumerate(due):
        try:
            notify(app, queue=queue, batch_id=batch_id)
        except BrokerUnavailable as error:
            left = [held_id for held_id, _ in due[n_notified:]]
            log.warning("broker_away", error=str(error), n_unnotified=len(left))
            with transaction(engine) as connection:
                notifications.mark_notified(connection, left, at=None)
            return n_notified
    return len(due)


def _notify_trainings(engine: sa.Engine, app: Celery, due: list[int]) -> None:
    """Likewise for trainings."""
    for n_notified, training_id in enumerate(due):
        try:
            notify_training(app, training_id)
        except BrokerUnavailable as error:
            log.warning("broker_away", error=str(error), n_unnotified=len(due) - n_notified)
            with transaction(engine) as connection:
                upkeep.mark_notified(connection, due[n_notified:], at=None)
            return
