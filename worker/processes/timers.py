"""What a worker does beside scoring: its row, reconciliation, the watches for hangs, deafness and promotions.

Says in the log, from time to time, where a worker's time goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import structlog
from celery import Celery

from scanfleet.config.settings import Settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans.workers import beat, stop_worker
from scanfleet.messages import score_queue
from scanfleet.queue.app import clear_taken
from scanfleet.reconcile import reconcile_once
from scanfleet.stats.stage_times import ADVICE, StageTimes
from worker.batch.timing import Totals
from worker.processes.components import Scoring
from worker.processes.hang_detector import HangWatch, Limits
from worker.runtime.exit import EX_TEMPFAIL, exit_hung
from worker.runtime.timer import Timer
from worker.runtime.watchdog import Watchdog, answers, work_in

log = structlog.get_logger()


class StageLog:
    """`look` is called on a timer: it says what came since the last time, and nothing where nothing was scored."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._before = StageTimes(sums={})

    def look(self) -> None:
        now = self._read()
        self._say("stage_times", now.since(self._before))
        self._before = now

    def end(self) -> None:
        """All since the start."""
        self._say("stage_times_total", self._read())

    def _read(self) -> StageTimes:
        return StageTimes(sums=self._totals.read()[1])

    def _say(self, event: str, times: StageTimes) -> None:
        if times.bottleneck is not None:
            log.info(event, **times.record(), what_helps=ADVICE[times.bottleneck])


STAGES_SECONDS = 30.0  # between two words on where the time goes
CLEAR_SECONDS = 60.0  # of the embedded broker's taken messages
WATCH_SECONDS = 10.0  # between two looks of the watchdog
STALLED_SECONDS = 120.0  # this long idle beside ready batches is a wedge


def signs_of(scoring: Scoring) -> Callable[[sa.Connection], None]:
    """What writes into the row of a scoring worker that it lives, and what it did."""
    n_signs = -1

    def say(connection: sa.Connection) -> None:
        nonlocal n_signs
        n_images, seconds = scoring.pipeline.totals.read()
        progressed, n_signs = scoring.tracker.whole.n != n_signs, scoring.tracker.whole.n
        beat(connection, worker=scoring.name, n_images=n_images, seconds=seconds, progressed=progressed)

    return say


@contextmanager
def timers(scoring: Scoring, app: Celery, settings: Settings) -> Iterator[None]:
    """Reconciliation, the watches for hangs, deafness and promotions, and the clearing of an embedded broker."""
    all_timers = [
        Timer("reconcile", lambda: reconcile_once(scoring.engine, app, settings), seconds=settings.reconcile_seconds)
    ]
    watchdog = Watchdog(
        has_work=work_in(scoring.engine, score_queue(settings.model)),
        broker_answers=answers(app),
        n_taken=lambda: scoring.pipeline.n_taken,
        active=lambda: scoring.pipeline.n_active,
        stalled=lambda: os._exit(EX_TEMPFAIL),  # its loop hears no signal either, and it holds nothing
        patience_seconds=max(STALLED_SECONDS, 3 * settings.renotify_seconds),
    )
    all_timers.append(Timer("watchdog", watchdog.look, seconds=WATCH_SECONDS))
    stages = StageLog(scoring.pipeline.totals)
    all_timers.append(Timer("stage_times", stages.look, seconds=STAGES_SECONDS))
    hangs = watch_for_hangs(scoring, settings)
    all_timers.append(Timer("hangs", hangs.look, seconds=hangs.limits.look))
    all_timers.append(Timer("champions", scoring.scorers.look, seconds=settings.reconcile_seconds))
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


def watch_for_hangs(scoring: Scoring, settings: Settings) -> HangWatch:
    """Ends this process when it hangs, with the reason in the log and in the worker's row."""

    def last_words(why: str) -> None:
        with transaction(scoring.engine) as connection:
            stop_worker(connection, scoring.name, because=why)

    pipeline = scoring.pipeline
    return HangWatch(
        device=scoring.device,
        tracker=scoring.tracker,
        counts=lambda: (pipeline.n_taken, pipeline.n_active),
        limits=Limits.of(settings),
        on_hung=lambda why: exit_hung(why, last_words=last_words),
    )
