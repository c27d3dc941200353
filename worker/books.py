"""A worker's row in the ledger: who it is, that it lives, what it does; of those that score and those that train."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import structlog

from scanfleet.errors import DatabaseUnavailable
from scanfleet.store.engine import transaction
from scanfleet.store.workers import start_worker, stop_worker
from worker.background import Timer, until_it_heals

log = structlog.get_logger()

BEAT_SECONDS = 5.0


@contextmanager
def on_the_books(
    engine: sa.Engine, *, worker: str, queue: str, device: str, beat: Callable[[sa.Connection], None]
) -> Iterator[None]:
    """The row from start to end. beat: says in it that the worker lives, and what it did."""

    def enter() -> None:
        with transaction(engine) as connection:
            start_worker(
                connection, worker=worker, host=socket.gethostname(), pid=os.getpid(), queue=queue, device=device
            )

    def say() -> None:
        with transaction(engine) as connection:
            beat(connection)

    until_it_heals(enter, what="ledger")
    timer = Timer("worker_row", say, seconds=BEAT_SECONDS)
    timer.start()
    try:
        yield
    finally:
        timer.stop()
        try:
            say()
            with transaction(engine) as connection:
                stop_worker(connection, worker)
        except DatabaseUnavailable as error:
            log.warning("worker_row_left_open", error=str(error))
