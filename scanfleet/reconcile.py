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
from scanfleet.queue.app import ring, ring_training

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    expired: int  # leases
    rung: int  # batches
    finished: int  # scans


def reconcile_once(engine: sa.Engine, app: Celery, settings: Settings) -> Reconciled:
    """One round. Raises DatabaseUnavailable; a broker that is away costs a warning and the next round tries again."""
    with transaction(engine) as connection:
        expired = crash_isolation.expire_leases(connection)
        finished = scans.finish_all_complete(connection)
        due = notifications.due_for_ring(
            connection,
            ring_again_seconds=settings.ring_again_seconds,
            max_outstanding=settings.max_outstanding_rings,
        )
        silent = upkeep.expire_leases(connection)
        trainings = upkeep.due_for_ring(connection, ring_again_seconds=settings.ring_again_seconds)
    if silent:
        log.warning("training_leases_expired", trainings=silent)
    if expired.n:
        log.warning("leases_expired", n=expired.n)
    if expired.quarantined:
        log.error("images_quarantined", images=expired.quarantined, reason=crash_isolation.KILLER)
    _ring_trainings(engine, app, trainings)
    return Reconciled(expired=expired.n, rung=ring_all(engine, app, due), finished=finished)


def ring_all(engine: sa.Engine, app: Celery, due: list[tuple[int, str]]) -> int:
    """Ring for batches already marked as rung, after their commit. Those that did not go out are unmarked."""
    for n_rung, (batch_id, queue) in enumerate(due):
        try:
            ring(app, queue=queue, batch_id=batch_id)
        except BrokerUnavailable as error:
            left = [held_id for held_id, _ in due[n_rung:]]
            log.warning("broker_away", error=str(error), n_unrung=len(left))
            with transaction(engine) as connection:
                notifications.mark_rung(connection, left, at=None)
            return n_rung
    return len(due)


def _ring_trainings(engine: sa.Engine, app: Celery, due: list[int]) -> None:
    """Likewise for trainings."""
    for n_rung, training_id in enumerate(due):
        try:
            ring_training(app, training_id)
        except BrokerUnavailable as error:
            log.warning("broker_away", error=str(error), n_unrung=len(due) - n_rung)
            with transaction(engine) as connection:
                upkeep.mark_rung(connection, due[n_rung:], at=None)
            return
