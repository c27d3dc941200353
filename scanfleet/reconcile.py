"""The reconciler makes a lost message harmless. All workers and waiting producers have one, and one of them runs.

It reads the ledger alone. It returns batches and trainings with an expired lease to the queue, notifies again about
ready ones without a recent notification, and marks scans done whose last batch was settled.

Whose turn it is stands in the workers' rows: the worker that reconciled last goes on, and the others leave it to that
one until it has been silent for `attended_seconds`. They learn that with their heartbeats, so that idle workers ask
nothing else. Rounds are safe in parallel, as with workers of an older release; an advisory lock, which belongs to the
transaction, keeps two of ours from doing the same work at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa
import structlog
from celery import Celery

from scanfleet.config.settings import Settings
from scanfleet.db import leases
from scanfleet.db.engine import moment, transaction
from scanfleet.db.fleet import limits
from scanfleet.db.scans import crash_isolation, notifications, scans, workers
from scanfleet.db.scans.workers import News
from scanfleet.db.tables import Batch, Training
from scanfleet.db.tallies import scan_sums
from scanfleet.db.training import upkeep
from scanfleet.errors import BrokerUnavailable
from scanfleet.queue.app import n_waiting, notify, notify_training

ROUND_LOCK = 7_226_353  # PostgreSQL advisory lock
SILENT_ROUNDS = 3.0  # intervals without a round, after which another worker takes over

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    expired: int = 0  # leases
    notified: int = 0  # batches
    finished: int = 0  # scans


@dataclass(frozen=True, kw_only=True)
class _Due:
    """What a round may find something to do for."""

    expired: bool = True
    complete: bool = True
    batches: bool = True
    silent: bool = True  # trainings
    trainings: bool = True
    sums: bool = True  # of large scans that are done
    limits: bool = True  # a running scan has some


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What a round has written. Notifications follow its commit."""

    expired: crash_isolation.Expired = crash_isolation.Expired()  # noqa: RUF009 - frozen
    finished: int = 0
    batches: tuple[tuple[int, str], ...] = ()
    silent: tuple[int, ...] = ()
    trainings: tuple[int, ...] = ()
    sums_due: bool = False
    paused: Mapping[str, str] = field(default_factory=dict)  # scan -> the limit that it reached


def attended_seconds(settings: Settings) -> float:
    """Return for how long after a round the others leave the next one to the same worker."""
    return SILENT_ROUNDS * settings.reconcile_seconds


class Reconciler:
    """Runs a round at each `check` where it is this process's turn.

    worker: the name of its row; None: it has none, and runs rounds while no worker does.
    news: the last heartbeat's. busy: whether it has batches under way, though nothing was open at the last heartbeat.
    """

    def __init__(
        self,
        engine: sa.Engine,
        app: Celery,
        settings: Settings,
        *,
        worker: str | None = None,
        news: Callable[[], News] = News,
        busy: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._app = app
        self._settings = settings
        self._worker = worker
        self._news = news
        self._busy = busy
        self._mine = False  # the last round was ours, and something is open

    def check(self) -> Reconciled:
        """Raises DatabaseUnavailable. An unavailable broker is logged, and the next round tries again."""
        news = self._news()
        wanted = not news.attended if news.open else self._busy()
        if not (self._mine or wanted):
            return Reconciled()
        with transaction(self._engine) as connection:
            due = self._take_turn(connection)
            if due is None:
                return Reconciled()
            written = _write(connection, self._settings, due)
            if self._worker is not None:
                workers.mark_reconciled(connection, self._worker)
        return _tell(self._engine, self._app, written, most=self._settings.max_outstanding_notifications)

    def _take_turn(self, connection: sa.Connection) -> _Due | None:
        """Return what is due, in one statement; None: another process reconciles."""
        at, again = moment(connection), self._settings.renotify_seconds
        on_server = connection.dialect.name == "postgresql"  # SQLite's transaction has the one lock already
        free = sa.func.pg_try_advisory_xact_lock(ROUND_LOCK) if on_server else sa.true()
        attended = workers.attended(at, worker=self._worker, within_seconds=attended_seconds(self._settings))
        query = sa.select(
            free.label("free"),
            workers.anything_open().label("open"),
            leases.any_expired(Batch, at).label("expired"),
            scans.any_complete().label("complete"),
            notifications.any_due(at, renotify_seconds=again).label("batches"),
            leases.any_expired(Training, at).label("silent"),
            upkeep.any_due(at, renotify_seconds=again).label("trainings"),
            scan_sums.any_due().label("sums"),
            limits.any_limited().label("limits"),
        ).where(~attended)
        row = connection.execute(query).one_or_none()
        self._mine = row is not None and bool(row.free and row.open)
        if row is None or not row.free:
            return None
        return _Due(**{name: value for name, value in row._mapping.items() if name not in ("free", "open")})


def reconcile_once(engine: sa.Engine, app: Celery, settings: Settings) -> Reconciled:
    """Run one whole round, whoever else does. Raises as `Reconciler.check`."""
    with transaction(engine) as connection:
        written = _write(connection, settings, _Due())
    return _tell(engine, app, written, most=settings.max_outstanding_notifications)


def _write(connection: sa.Connection, settings: Settings, due: _Due) -> _Written:
    again, cap = settings.renotify_seconds, settings.max_outstanding_notifications
    found: dict[str, Any] = {"sums_due": due.sums or bool(due.complete)}
    if due.expired:
        found["expired"] = crash_isolation.expire_leases(connection)
    if due.limits:
        found["paused"] = limits.pause_spent(connection)
    if due.complete:
        found["finished"] = scans.finish_all_complete(connection)
    if due.batches or due.expired:
        batches = notifications.due_for_notification(connection, renotify_seconds=again, max_outstanding=cap)
        found["batches"] = tuple(batches)
    if due.silent:
        found["silent"] = tuple(upkeep.expire_leases(connection))
    if due.trainings or due.silent:
        found["trainings"] = tuple(upkeep.due_for_notification(connection, renotify_seconds=again))
    return _Written(**found)


def _tell(engine: sa.Engine, app: Celery, written: _Written, *, most: int) -> Reconciled:
    """Log what a round has written, and notify workers."""
    expired = written.expired
    for scan_id, limit in written.paused.items():
        log.warning("scan_paused", scan=scan_id, limit=limit)
    if written.silent:
        log.warning("training_leases_expired", trainings=list(written.silent))
    if expired.n:
        log.warning("leases_expired", n=expired.n)
    if expired.quarantined:
        log.error("images_quarantined", images=expired.quarantined, reason=crash_isolation.KILLER)
    while written.sums_due and _keep_sums(engine):
        pass
    _send(engine, {each: partial(notify_training, app, each) for each in written.trainings}, upkeep.mark_notified)
    notified = notify_all(engine, app, _not_waiting(app, written.batches, most))
    return Reconciled(expired=expired.n, notified=notified, finished=written.finished)


def _keep_sums(engine: sa.Engine) -> bool:
    """Keep those of the next scan; False: there is none. In a transaction of its own, since it reads all batches."""
    with transaction(engine, long=True) as connection:
        return scan_sums.keep_next(connection) is not None


def _not_waiting(app: Celery, due: tuple[tuple[int, str], ...], most: int) -> list[tuple[int, str]]:
    """Leave out the batches of queues that hold so many messages already: a worker takes any batch with any of them.

    Else a few slow workers would find their queue grown by all outstanding notifications every `renotify_seconds`.
    """
    full = {queue for queue in {queue for _, queue in due} if n_waiting(app, queue) >= most}
    return [each for each in due if each[1] not in full]


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
