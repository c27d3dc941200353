"""A scoring worker from start to stop: database, model, threads, Celery."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

import structlog

from scanfleet.config.diagnosis import check_broker, warn_of_open_connections
from scanfleet.config.settings import Settings
from scanfleet.db.schema import ledger
from scanfleet.errors import BrokerUnavailable
from scanfleet.messages import score_queue
from scanfleet.queue.app import make_app
from scanfleet.storage.open import OpenStores
from scanfleet.worker.consumer.app import make_scoring_app
from scanfleet.worker.consumer.run import consume
from scanfleet.worker.device.kind import kind_of
from scanfleet.worker.processes.components import running
from scanfleet.worker.processes.registration import new_name, registered_worker
from scanfleet.worker.processes.timers import heartbeat_of, timers
from scanfleet.worker.runtime.exit import EX_TEMPFAIL, exit_overdue
from scanfleet.worker.runtime.retry import retry_startup
from scanfleet.worker.runtime.shutdown import Stop
from scanfleet.worker.scoring.adapters import register_shipped
from scanfleet.worker.scoring.model import load_model

log = structlog.get_logger()


def check_access(settings: Settings) -> None:
    """Raise BadSettings if the broker refuses the password or certificate: before the model is loaded for minutes.

    If the broker is only away, log a warning: the consumer waits for it.
    """
    warn_of_open_connections(settings)
    with make_app(settings) as app:
        try:
            check_broker(app)
        except BrokerUnavailable as error:
            log.warning("broker_away", error=str(error))


def end_when_drained() -> None:
    """End as after a SIGTERM, on a person's request in the ledger."""
    log.info("worker_drain_requested")
    os.kill(os.getpid(), signal.SIGTERM)


def serve(settings: Settings) -> int:
    """Score until asked to stop. Returns the exit code. Raises RequestError for an error that a person must fix."""
    stop = Stop(drain_seconds=settings.drain_seconds, on_overdue=exit_overdue)
    broken: list[str] = []

    def on_broken() -> None:
        broken.append("device")
        stop.request("the device is broken")
        os.kill(os.getpid(), signal.SIGTERM)  # the only thing that ends Celery's loop from another thread

    check_access(settings)
    with ExitStack() as stack:
        engine = retry_startup(lambda: stack.enter_context(ledger(settings, newer=True)), what="ledger")
        queue, name = score_queue(settings.model), new_name()
        row = stack.enter_context(registered_worker(engine, settings, worker=name, queue=queue))
        model = retry_startup(lambda: load_model(settings), what="model", on_error=row.wait_for)
        retry_startup(lambda: register_shipped(engine, model.identity), what="ledger")
        scoring = stack.enter_context(
            running(
                settings,
                engine=engine,
                model=model,
                stop=stop,
                stores=OpenStores(settings),
                name=name,
                on_broken=on_broken,
            )
        )
        app = make_scoring_app(settings, scoring.pipeline)
        row.ready(
            device=model.device, kind=kind_of(model.device), write=heartbeat_of(scoring), on_drain=end_when_drained
        )
        stack.enter_context(timers(scoring, app, settings, news=lambda: row.news))
        code = consume(app, queue=queue, concurrency=settings.batches_in_flight, name=name, stop=stop)
    return EX_TEMPFAIL if broken else code
