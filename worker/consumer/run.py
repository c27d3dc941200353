"""Celery's worker in this process: it only delivers notifications to the pipeline."""

from __future__ import annotations

import socket
import warnings
from typing import Any

import structlog
from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from scanfleet.worker.consumer import ack_patch
from scanfleet.worker.runtime.shutdown import Stop

log = structlog.get_logger()

RESTART_SECONDS = 1.0  # between two consumers


def consume(app: Celery, *, queue: str, concurrency: int, name: str, stop: Stop) -> int:
    """Run Celery's worker on a queue, in this process, until a signal ends it. Return its exit code."""
    ack_patch.install()

    def on_shutdown(**about: Any) -> None:
        stop.request(f"{about.get('sig', 'signal')} received")

    signals.worker_shutting_down.connect(on_shutdown, weak=False)
    # Celery warns about running as root because of pickle; this application accepts JSON only.
    warnings.simplefilter("ignore", SecurityWarning)
    # A task continues when the broker is lost, on purpose: its result is written to the database.
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    log.info("worker_ready", worker=name, queue=queue)
    try:
        while True:
            code = _consume_once(app, queue=queue, concurrency=concurrency, name=name)
            if code == 0 or stop.draining:
                return code
            # On a broken Redis connection kombu may raise errors that Celery does not recognise and exits with
            # (AttributeError in kombu.transport.redis). The model is loaded and the database is correct: restart it.
            log.warning("consumer_restarted", exit_code=code)
            if stop.wait_draining(RESTART_SECONDS):
                return code
    finally:
        signals.worker_shutting_down.disconnect(on_shutdown)


def _consume_once(app: Celery, *, queue: str, concurrency: int, name: str) -> int:
    worker = app.Worker(
        hostname=f"{name}@{socket.gethostname()}",
        pool="threads",
        concurrency=concurrency,
        queues=[queue],
        without_mingle=True,
        without_gossip=True,
        quiet=True,
        loglevel="WARNING",
    )
    worker.start()
    return int(worker.exitcode or 0)
