"""A worker's row in the ledger: who it is, that it lives, what it does; of those that score and those that train."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import structlog

from scanfleet.db.engine import transaction
from scanfleet.db.scans.workers import beat, set_ready, set_waiting, start_worker, stop_worker
from scanfleet.errors import DatabaseUnavailable
from scanfleet.redaction import storable
from worker.runtime.retry import retry_startup
from worker.runtime.timer import Timer

log = structlog.get_logger()

BEAT_SECONDS = 5.0


def new_name() -> str:
    """Of this process: host-pid-random."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Row:
    """The row of a worker that is not ready yet: it lives, and may say what it waits for."""

    def __init__(self, engine: sa.Engine, worker: str) -> None:
        self._engine = engine
        self._worker = worker
        self._say: Callable[[sa.Connection], None] = self._live

    def _live(self, connection: sa.Connection) -> None:
        beat(connection, worker=self._worker, n_images=0, seconds={}, progressed=False)

    def say(self) -> None:
        """That the worker lives, and what it did."""
        with transaction(self._engine) as connection:
            self._say(connection)

    def wait_for(self, words: str) -> None:
        """The worker cannot begin."""
        try:
            with transaction(self._engine) as connection:
                set_waiting(connection, self._worker, storable(words))
        except DatabaseUnavailable as error:
            log.warning("worker_row_not_told", error=str(error))

    def ready(self, *, device: str, say: Callable[[sa.Connection], None]) -> None:
        """The worker begins; `say` writes that it lives from now on, and what it did."""

        def begin() -> None:
            with transaction(self._engine) as connection:
                set_ready(connection, self._worker, device=device)

        retry_startup(begin, what="ledger")
        self._say = say


@contextmanager
def registered_worker(engine: sa.Engine, *, worker: str, queue: str, device: str) -> Iterator[Row]:
    """The row from start to end."""

    def enter() -> None:
        with transaction(engine) as connection:
            start_worker(
                connection, worker=worker, host=socket.gethostname(), pid=os.getpid(), queue=queue, device=device
            )

    retry_startup(enter, what="ledger")
    row = Row(engine, worker)
    timer = Timer("worker_row", row.say, seconds=BEAT_SECONDS)
    timer.start()
    try:
        yield row
    finally:
        timer.stop()
        try:
            row.say()
            with transaction(engine) as connection:
                stop_worker(connection, worker)
        except DatabaseUnavailable as error:
            log.warning("worker_row_left_open", error=str(error))
