"""A training worker from start to stop: database, timers, Celery. Torch is loaded in its child processes only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import sqlalchemy as sa
from celery import Celery

from scanfleet.config.endpoints import PREFIX
from scanfleet.config.model_names import FAKE_MODELS
from scanfleet.config.settings import Settings
from scanfleet.db.scans.workers import News, beat
from scanfleet.db.schema import ledger
from scanfleet.errors import BadSettings
from scanfleet.messages import TRAIN_QUEUE
from scanfleet.models.inputs.sources import locate
from scanfleet.models.types import ModelIdentity
from scanfleet.queue.app import clear_taken
from scanfleet.reconcile import Reconciler
from scanfleet.worker.consumer.app import make_training_app
from scanfleet.worker.consumer.run import consume
from scanfleet.worker.processes.registration import new_name, registered_worker
from scanfleet.worker.processes.score_worker import check_access, end_when_drained
from scanfleet.worker.processes.timers import CLEAR_SECONDS, STALLED_SECONDS, WATCH_SECONDS, webhook_timers
from scanfleet.worker.runtime.exit import EX_TEMPFAIL, exit_overdue
from scanfleet.worker.runtime.retry import retry_startup
from scanfleet.worker.runtime.shutdown import Stop
from scanfleet.worker.runtime.timer import Timer
from scanfleet.worker.runtime.watchdog import Watchdog, responds
from scanfleet.worker.runtime.weights import in_bucket
from scanfleet.worker.scoring.adapters import register_shipped
from scanfleet.worker.scoring.error_mapping import naming_model
from scanfleet.worker.training.trainer import Trainer
from scanfleet.worker.training.triggers import check_triggers

SWEEP_SECONDS = 600.0  # between two removals of unused work folders


def serve_training(settings: Settings) -> int:
    """Train until asked to stop. Returns the exit code. Raises RequestError for an error that a person must fix."""
    stop = Stop(drain_seconds=settings.drain_seconds, on_overdue=exit_overdue)
    check_access(settings)
    with ExitStack() as stack:
        engine = retry_startup(lambda: stack.enter_context(ledger(settings, newer=True)), what="ledger")
        name = new_name()
        row = stack.enter_context(registered_worker(engine, settings, worker=name, queue=TRAIN_QUEUE))
        identity = retry_startup(lambda: find_base(settings), what="model", on_error=row.wait_for)
        # The gate needs the shipped adapters, even if no worker has scored yet.
        retry_startup(lambda: register_shipped(engine, identity), what="ledger")
        trainer = Trainer(engine, settings, name=name, stop=stop)
        app = make_training_app(settings, trainer)
        row.ready(device=settings.device, write=_heartbeat_of(trainer), on_drain=end_when_drained)
        stack.enter_context(_timers(engine, app, settings, trainer, news=lambda: row.news))
        return consume(app, queue=TRAIN_QUEUE, concurrency=1, name=name, stop=stop)


def find_base(settings: Settings) -> ModelIdentity:
    """Return the identity of the model to train, without loading it. Raises BadSettings, DeviceUnavailable."""
    if settings.model in FAKE_MODELS or settings.model.startswith(PREFIX):
        raise BadSettings(f"model: {settings.model} cannot be trained: name a hub id, a folder or pocket")
    if in_bucket(settings.model):
        raise BadSettings("model: one in a bucket cannot be trained yet: copy it to a folder, and name that")
    with naming_model():
        found = locate(settings.model, revision=settings.model_revision)
    return ModelIdentity(
        base_model=found.name, revision=found.revision, precision=settings.precision, adapter_sha256=None
    )


def _heartbeat_of(trainer: Trainer) -> Callable[[sa.Connection], None]:
    """Return the function that writes the heartbeat to the worker's row. Progress is in the training's own row."""

    def write(connection: sa.Connection) -> None:
        beat(connection, worker=trainer.name, n_images=0, seconds={}, progressed=trainer.n_active > 0)

    return write


@contextmanager
def _timers(
    engine: sa.Engine, app: Celery, settings: Settings, trainer: Trainer, *, news: Callable[[], News]
) -> Iterator[None]:
    """Run the timers of a training worker inside the context. news: of its last heartbeat."""
    reconciler = Reconciler(engine, app, settings, worker=trainer.name, news=news, busy=lambda: trainer.n_active > 0)
    watchdog = Watchdog(
        has_work=lambda: news().open and trainer.has_work(),
        broker_responds=responds(app),
        n_taken=lambda: trainer.n_taken,
        active=lambda: trainer.n_active,
        stalled=lambda: os._exit(EX_TEMPFAIL),  # its loop handles no signal either, and no training is under way
        # Longer than for batches: notifications may keep going to a worker of another base model.
        patience_seconds=max(STALLED_SECONDS, 10 * settings.renotify_seconds),
    )
    all_timers = [
        Timer("reconcile", reconciler.check, seconds=settings.reconcile_seconds),
        Timer("triggers", lambda: check_triggers(engine, settings), seconds=settings.train_check_seconds),
        Timer("watchdog", watchdog.check, seconds=WATCH_SECONDS),
        Timer("sweep", trainer.sweep, seconds=SWEEP_SECONDS),
        *webhook_timers(engine, settings, news),
    ]
    if settings.broker.startswith("filesystem"):
        all_timers.append(Timer("clear_taken", lambda: clear_taken(settings), seconds=CLEAR_SECONDS))
    for timer in all_timers:
        timer.start()
    try:
        yield
    finally:
        for timer in all_timers:
            timer.stop()
