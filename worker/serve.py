"""A scoring worker from start to end: ledger, model, threads, Celery, and an orderly stop."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from scanfleet.messages import score_queue
from scanfleet.settings import Settings
from scanfleet.store.schema import ledger
from worker.adapters import register_shipped
from worker.admission import check_access
from worker.app import make_scoring_app
from worker.assembly import running
from worker.background import until_it_heals
from worker.books import new_name, on_the_books
from worker.consumer import consume
from worker.model import load_model
from worker.stop import Stop
from worker.stores import OpenStores
from worker.upkeep import signs_of, timers
from worker.wedge import EX_TEMPFAIL, end_overdue


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
        queue, name = score_queue(settings.model), new_name()
        row = stack.enter_context(on_the_books(engine, worker=name, queue=queue, device=settings.device))
        model = until_it_heals(lambda: load_model(settings), what="model", tell=row.wait_for)
        until_it_heals(lambda: register_shipped(engine, model.identity), what="ledger")
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
        row.ready(device=model.device, say=signs_of(scoring))
        stack.enter_context(timers(scoring, app, settings))
        code = consume(app, queue=queue, concurrency=settings.batches_in_flight, name=name, stop=stop)
    return EX_TEMPFAIL if broken else code
