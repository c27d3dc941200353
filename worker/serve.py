"""A scoring worker from start to end: ledger, model, threads, Celery, and an orderly stop."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from scanfleet.errors import DatabaseUnavailable, Retryable
from scanfleet.messages import score_queue
from scanfleet.queue import clear_taken
from scanfleet.reconcile import reconcile_once
from scanfleet.settings import Settings
from scanfleet.store.engine import transaction
from scanfleet.store.schema import ledger
from scanfleet.store.workers import beat, start_worker, stop_worker
from worker import celery_guard
from worker.adapters import register_shipped
from worker.admission import check_access
from worker.app import make_scoring_app
from worker.background import Timer
from worker.batch import Stages
from worker.decoders import Decoders
from worker.device import Device
from worker.hangs import HangWatch, Limits
from worker.leases import Leases
from worker.model import Model, load_model
from worker.pipeline import Pipeline, look_up_content
from worker.scorers import Scorers
from worker.stop import Stop
from worker.stores import OpenStores, StoreFinder
from worker.vitals import Vitals
from worker.watchdog import Watchdog, answers, work_in
from worker.wedge import EX_TEMPFAIL, end_overdue, end_wedged

log = structlog.get_logger()

BEAT_SECONDS = 5.0  # of the worker's row
RESTART_SECONDS = 1.0  # between two consumers
CLEAR_SECONDS = 60.0  # of the embedded broker's taken messages
MAX_RETRY_SECONDS = 60.0
WATCH_SECONDS = 10.0  # between two looks of the watchdog
DEAF_SECONDS = 120.0  # this long idle beside ready batches is a wedge

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The parts of a running worker, before a broker is involved."""

    name: str  # of this process: host-pid-random
    engine: sa.Engine
    pipeline: Pipeline
    device: Device
    model: Model
    vitals: Vitals


def serve(settings: Settings) -> int:
    """Score until asked to stop. Returns the exit code. Raises RequestError for what a person must change."""
    stop = Stop(drain_seconds=settings.drain_seconds, on_overdue=end_overdue)
    broken: list[str] = []

    def on_broken() -> None:
        broken.append("device")
        stop.request("the device is broken")
        os.kill(os.getpid(), signal.SIGTERM)  # the only thing that ends Celery's loop from another thread

    check_access(settings)
    with ExitStack() as stack:
        engine = until_it_heals(lambda: stack.enter_context(ledger(settings)), what="ledger")
        model = until_it_heals(lambda: load_model(settings), what="model")
        until_it_heals(lambda: register_shipped(engine, model.identity), what="ledger")
        scoring = stack.enter_context(
            running(settings, engine=engine, model=model, stop=stop, stores=OpenStores(settings), on_broken=on_broken)
        )
        app = make_scoring_app(settings, scoring.pipeline)
        stack.enter_context(on_the_books(scoring, settings))
        stack.enter_context(timers(scoring, app, settings))
        code = consume(app, settings, name=scoring.name, stop=stop)
    return EX_TEMPFAIL if broken else code


def until_it_heals(call: Callable[[], T], *, what: str) -> T:
    """Call again, with growing pauses, while the world fails. SIGTERM ends the process meanwhile."""
    pause = 1.0
    while True:
        try:
            return call()
        except Retryable as error:
            log.warning("start_waits_for_the_world", what=what, error=str(error), retry_seconds=pause)
            time.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_SECONDS)


@contextmanager
def running(
    settings: Settings,
    *,
    engine: sa.Engine,
    model: Model,
    stop: Stop,
    stores: StoreFinder,
    on_broken: Callable[[], None] = lambda: None,
) -> Iterator[Scoring]:
    """Device thread, stage threads, decoder processes and heartbeat around a pipeline."""
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    device = Device(token_budget=settings.token_budget, on_broken=on_broken)
    threads = ThreadPoolExecutor(settings.fetch_threads, thread_name_prefix="stage")
    decoders = Decoders(settings)
    leases = Leases(engine, worker=name, lease_seconds=settings.lease_seconds)
    vitals = Vitals()
    stages = Stages(
        threads=threads,
        decoders=decoders,
        device=device,
        stores=stores,
        known_by_content=look_up_content(engine),
        settings=settings,
        vitals=vitals,
    )
    scorers = Scorers(engine, model, settings)
    queue = score_queue(settings.model)
    pipeline = Pipeline(engine=engine, queue=queue, scorers=scorers, stages=stages, leases=leases, stop=stop)
    heartbeat = Timer("heartbeat", leases.beat, seconds=settings.lease_seconds / 3)
    notice = Timer("notice", leases.look, seconds=settings.reconcile_seconds)
    device.start()
    heartbeat.start()
    notice.start()
    try:
        yield Scoring(name=name, engine=engine, pipeline=pipeline, device=device, model=model, vitals=vitals)
    finally:
        notice.stop()
        heartbeat.stop()
        # Hardly waiting: a forward or a download that still goes on belongs to a batch that was handed back.
        device.stop(wait_seconds=1.0)
        threads.shutdown(wait=False, cancel_futures=True)
        decoders.close()


@contextmanager
def on_the_books(scoring: Scoring, settings: Settings) -> Iterator[None]:
    """The worker's row: who it is, that it lives, what it did."""

    def enter() -> None:
        with transaction(scoring.engine) as connection:
            start_worker(
                connection,
                worker=scoring.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                queue=score_queue(settings.model),
                device=scoring.model.device,
            )

    n_signs = -1

    def say() -> None:
        nonlocal n_signs
        n_images, seconds = scoring.pipeline.totals.read()
        progressed, n_signs = scoring.vitals.whole.n != n_signs, scoring.vitals.whole.n
        with transaction(scoring.engine) as connection:
            beat(connection, worker=scoring.name, n_images=n_images, seconds=seconds, progressed=progressed)

    until_it_heals(enter, what="ledger")
    timer = Timer("worker_row", say, seconds=BEAT_SECONDS)
    timer.start()
    try:
        yield
    finally:
        timer.stop()
        try:
            say()
            with transaction(scoring.engine) as connection:
                stop_worker(connection, scoring.name)
        except DatabaseUnavailable as error:
            log.warning("worker_row_left_open", error=str(error))


@contextmanager
def timers(scoring: Scoring, app: Celery, settings: Settings) -> Iterator[None]:
    """Reconciliation, the watch for hangs and deafness, and for the embedded broker the clearing of taken messages."""
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
    hangs = watch_for_hangs(scoring, settings)
    all_timers.append(Timer("hangs", hangs.look, seconds=hangs.limits.look))
    if settings.broker.startswith("filesystem"):
        all_timers.append(Timer("clear_taken", lambda: clear_taken(settings), seconds=CLEAR_SECONDS))
    for timer in all_timers:
        timer.start()
    try:
        yield
    finally:
        for timer in all_timers:
            timer.stop()


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


def consume(app: Celery, settings: Settings, *, name: str, stop: Stop) -> int:
    """Run Celery's worker in this process until a signal ends it. Returns its exit code."""
    celery_guard.install()

    def on_shutdown(**about: Any) -> None:
        stop.request(f"{about.get('sig', 'signal')} received")

    signals.worker_shutting_down.connect(on_shutdown, weak=False)
    # Celery warns of root because of pickle; this application accepts JSON alone.
    warnings.simplefilter("ignore", SecurityWarning)
    # A task goes on when the broker is lost, on purpose: its result is written to the ledger.
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    log.info("worker_ready", worker=name, queue=score_queue(settings.model))
    try:
        while True:
            code = _consume_once(app, settings, name=name)
            if code == 0 or stop.draining:
                return code
            # kombu fails over a broken Redis connection with errors that Celery does not take for one and ends over
            # (AttributeError in kombu.transport.redis). The model is loaded and the ledger is right: begin anew.
            log.warning("consumer_restarted", exit_code=code)
            if stop.wait_draining(RESTART_SECONDS):
                return code
    finally:
        signals.worker_shutting_down.disconnect(on_shutdown)


def _consume_once(app: Celery, settings: Settings, *, name: str) -> int:
    worker = app.Worker(
        hostname=f"{name}@{socket.gethostname()}",
        pool="threads",
        concurrency=settings.batches_in_flight,
        queues=[score_queue(settings.model)],
        without_mingle=True,
        without_gossip=True,
        quiet=True,
        loglevel="WARNING",
    )
    worker.start()
    return int(worker.exitcode or 0)
