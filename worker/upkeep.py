"""What a worker does beside scoring: its row, reconciliation, the watches for hangs, deafness and promotions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from celery import Celery

from scanfleet.messages import score_queue
from scanfleet.queue import clear_taken
from scanfleet.reconcile import reconcile_once
from scanfleet.settings import Settings
from scanfleet.store.engine import transaction
from scanfleet.store.workers import beat, stop_worker
from worker.assembly import Scoring
from worker.background import Timer
from worker.hangs import HangWatch, Limits
from worker.stage_log import StageLog
from worker.watchdog import Watchdog, answers, work_in
from worker.wedge import EX_TEMPFAIL, end_wedged

STAGES_SECONDS = 30.0  # between two words on where the time goes
CLEAR_SECONDS = 60.0  # of the embedded broker's taken messages
WATCH_SECONDS = 10.0  # between two looks of the watchdog
DEAF_SECONDS = 120.0  # this long idle beside ready batches is a wedge


def signs_of(scoring: Scoring) -> Callable[[sa.Connection], None]:
    """What writes into the row of a scoring worker that it lives, and what it did."""
    n_signs = -1

    def say(connection: sa.Connection) -> None:
        nonlocal n_signs
        n_images, seconds = scoring.pipeline.totals.read()
        progressed, n_signs = scoring.vitals.whole.n != n_signs, scoring.vitals.whole.n
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
        deaf=lambda: os._exit(EX_TEMPFAIL),  # its loop hears no signal either, and it holds nothing
        patience_seconds=max(DEAF_SECONDS, 3 * settings.ring_again_seconds),
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
        vitals=scoring.vitals,
        counts=lambda: (pipeline.n_taken, pipeline.n_active),
        limits=Limits.of(settings),
        on_wedged=lambda why: end_wedged(why, last_words=last_words),
    )
