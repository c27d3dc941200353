"""The reconciler makes a lost message harmless. Every worker and waiting producer runs it on a timer, in parallel.

It reads the ledger alone. It returns batches and trainings with an expired lease to the queue, notifies again about
ready ones without a recent notification, and marks scans done whose last batch was settled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
import structlog
from celery import Celery

from scanfleet.config.settings import Settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans import crash_isolation, notifications, scans
from scanfleet.db.tallies import scan_sums
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
    """Run one round. Raises DatabaseUnavailable. An unavailable broker is logged, and the next round tries again."""
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
    with transaction(engine, long=True) as connection:
        scan_sums.keep_next(connection)
    _send(engine, {each: partial(notify_training, app, each) for each in trainings}, upkeep.mark_notified)
    return Reconciled(expired=expired.n, notified=notify_all(engine, app, due), finished=finished)


def notify_all(engine: sa.Engine, app: Celery, due: list[tuple[int, str]]) -> int:
    """Send the notifications of batches already marked as notified, after their commit. Returns how many went out."""
    sends = {batch_id: partial(notify, app, queue=queue, batch_id=batch_id) for batch_id, queue in due}
    return _send(engine, sends, notifications.mark_notified)


def _send(engine: sa.Engine, sends: Mapping[int, Callable[[], None]], mark: Callable[..., None]) -> int:
    """Send in this order. If the broker fails, the rest is marked as not notified."""
    for n_notified, send in enumerate(sends.values()):
        try:
            send()
        except BrokerUnavailable as error:
            log.warning("broker_away", error=str(error), n_unnotified=len(sends) - n_notified)
            with transaction(engine) as connection:
                mark(connection, list(sends)[n_notified:], at=None)
            return n_notified
    return len(sends)
