"""The timers of a scoring worker: heartbeat, reconciliation, hangs, a stalled consumer, new champions.

One of them logs how long each stage took.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import structlog
from celery import Celery

from scanfleet.config.settings import Settings
from scanfleet.config.webhook_address import sends_webhooks
from scanfleet.db.engine import transaction
from scanfleet.db.scans.workers import News, beat, stop_worker
from scanfleet.queue.app import clear_taken
from scanfleet.reconcile import Reconciler
from scanfleet.stats.stage_times import ADVICE, StageTimes
from scanfleet.webhooks.delivery import deliver_due
from scanfleet.worker.batch.timing import Totals
from scanfleet.worker.processes.components import Scoring
from scanfleet.worker.processes.hang_detector import HangWatch, Limits
from scanfleet.worker.runtime.exit import EX_TEMPFAIL, exit_hung
from scanfleet.worker.runtime.timer import Timer
from scanfleet.worker.runtime.watchdog import Watchdog, responds, work_in

log = structlog.get_logger()


class StageLog:
    """Logs the stage times since its last check; logs nothing where nothing was scored."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._before = StageTimes(sums={})

    def check(self) -> None:
        now = self._read()
        self._log("stage_times", now.since(self._before))
        self._before = now

    def end(self) -> None:
        """Log the stage times since the start."""
        self._log("stage_times_total", self._read())

    def _read(self) -> StageTimes:
        return StageTimes(sums=self._totals.read()[1])

    def _log(self, event: str, times: StageTimes) -> None:
        if times.bottleneck is not None:
            log.info(event, **times.record(), what_helps=ADVICE[times.bottleneck])


STAGES_SECONDS = 30.0  # between two logs of the stage times
CLEAR_SECONDS = 60.0  # of the embedded broker's taken messages
WATCH_SECONDS = 10.0  # between two checks of the watchdog
STALLED_SECONDS = 120.0  # idle for this long beside ready batches: the consumer has stalled


def heartbeat_of(scoring: Scoring) -> Callable[[sa.Connection], None]:
    """Return the function that writes a scoring worker's heartbeat and counts to its row."""
    n_signs = -1

    def write(connection: sa.Connection) -> None:
        nonlocal n_signs
        n_images, seconds = scoring.pipeline.totals.read()
        progressed, n_signs = scoring.tracker.whole.n != n_signs, scoring.tracker.whole.n
        beat(connection, worker=scoring.name, n_images=n_images, seconds=seconds, progressed=progressed)

    return write


def webhook_timers(engine: sa.Engine, settings: Settings, news: Callable[[], News]) -> list[Timer]:
    """Return a timer of its own: a receiver that answers slowly holds up nothing else."""
    if not sends_webhooks(settings):
        return []

    def deliver() -> None:
        if news().webhooks:
            deliver_due(engine, settings)

    return [Timer("webhooks", deliver, seconds=settings.reconcile_seconds)]


@contextmanager
def timers(scoring: Scoring, app: Celery, settings: Settings, *, news: Callable[[], News]) -> Iterator[None]:
    """Run the timers of a scoring worker inside the context. news: of its last heartbeat."""
    stages = StageLog(scoring.pipeline.totals)
    all_timers = [
        Timer("stage_times", stages.check, seconds=STAGES_SECONDS),
        *timers_on_ledger(scoring, app, settings, news),
    ]
    hangs = watch_for_hangs(scoring, settings)
    all_timers.append(Timer("hangs", hangs.check, seconds=hangs.limits.check_seconds))
    if settings.broker.startswith("filesystem"):
        all_timers.append(Timer("clear_taken", lambda: clear_taken(settings), seconds=CLEAR_SECONDS))
    for timer in all_timers:
        timer.start()
    try:
        yield
    finally:
        for timer in all_timers:
            timer.stop()
        stages.end()


def timers_on_ledger(scoring: Scoring, app: Celery, settings: Settings, news: Callable[[], News]) -> list[Timer]:
    """Return the timers that ask the database. Where the news tell that there is nothing to do, they do not ask."""
    pipeline, every = scoring.pipeline, settings.reconcile_seconds

    def busy() -> bool:
        return pipeline.n_active > 0

    reconciler = Reconciler(scoring.engine, app, settings, worker=scoring.name, news=news, busy=busy)
    has_work = work_in(scoring.engine, settings.model)
    watchdog = Watchdog(
        has_work=lambda: news().ready and has_work(),
        broker_responds=responds(app),
        n_taken=lambda: pipeline.n_taken,
        active=lambda: pipeline.n_active,
        stalled=lambda: os._exit(EX_TEMPFAIL),  # its loop handles no signal either, and no batch is under way
        patience_seconds=max(STALLED_SECONDS, 3 * settings.renotify_seconds),
    )

    def follow_champions() -> None:
        scoring.scorers.check(newest=None if busy() else news().promotion)

    return [
        Timer("reconcile", reconciler.check, seconds=every),
        Timer("watchdog", watchdog.check, seconds=WATCH_SECONDS),
        Timer("champions", follow_champions, seconds=every),
        *webhook_timers(scoring.engine, settings, news),
    ]


def watch_for_hangs(scoring: Scoring, settings: Settings) -> HangWatch:
    """Return the watch that ends this process when it hangs, with the reason in the log and in the worker's row."""

    def save(reason: str) -> None:
        with transaction(scoring.engine) as connection:
            stop_worker(connection, scoring.name, because=reason)

    pipeline = scoring.pipeline
    return HangWatch(
        device=scoring.device,
        tracker=scoring.tracker,
        counts=lambda: (pipeline.n_taken, pipeline.n_active),
        limits=Limits.of(settings),
        on_hung=lambda reason: exit_hung(reason, save=save),
    )
