"""A worker's row in the database: its identity, heartbeat and state. For scoring and training workers."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import structlog

from scanfleet.config.settings import Settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans.workers import News, beat, read_news, set_ready, set_waiting, start_worker, stop_worker
from scanfleet.errors import DatabaseUnavailable, RequestError
from scanfleet.reconcile import attended_seconds
from scanfleet.redaction import storable
from scanfleet.worker.runtime.retry import retry_startup
from scanfleet.worker.runtime.timer import Timer

log = structlog.get_logger()

BEAT_SECONDS = 6.0  # at most


def beat_seconds(settings: Settings) -> float:
    """Return the time between two heartbeats: others learn with theirs when the worker that reconciles has ended."""
    return min(BEAT_SECONDS, attended_seconds(settings))


def new_name() -> str:
    """Return a name for this process: host-pid-random."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Row:
    """The row of a worker: first it records what the worker waits for, then what it does.

    Attributes:
        news: What the last heartbeat told.
    """

    def __init__(self, engine: sa.Engine, worker: str, settings: Settings) -> None:
        self._engine = engine
        self._worker = worker
        self._within = attended_seconds(settings)
        self._write: Callable[[sa.Connection], None] = self._beat
        self.news = News()
        self._began = time.monotonic()
        self._on_drain: Callable[[], None] = lambda: None

    def _beat(self, connection: sa.Connection) -> None:
        beat(connection, worker=self._worker, n_images=0, seconds={}, progressed=False)

    def update(self) -> None:
        """Write the heartbeat and the worker's counts, and read the news."""
        with transaction(self._engine) as connection:
            self._write(connection)
            self.news = read_news(connection, self._worker, within_seconds=self._within)
        if self.news.drain:
            on_drain, self._on_drain = self._on_drain, lambda: None  # once: a second request hands back at once
            on_drain()

    def wait_for(self, reason: str) -> None:
        """Record why the worker cannot begin yet."""
        try:
            with transaction(self._engine) as connection:
                set_waiting(connection, self._worker, storable(reason))
        except DatabaseUnavailable as error:
            log.warning("worker_row_not_updated", error=str(error))

    def ready(
        self,
        *,
        device: str,
        write: Callable[[sa.Connection], None],
        kind: str | None = None,
        on_drain: Callable[[], None],
    ) -> None:
        """Record that the worker begins. From now on `write` writes its heartbeat and counts.

        kind: the card's name. on_drain: called once, when a heartbeat tells that a person asked the worker to end.
        """
        load_seconds = time.monotonic() - self._began

        def begin() -> None:
            with transaction(self._engine) as connection:
                set_ready(connection, self._worker, device=device, kind=kind, load_seconds=load_seconds)

        retry_startup(begin, what="ledger")
        log.info("worker_loaded", worker=self._worker, device=device, load_seconds=round(load_seconds, 1))
        self._write, self._on_drain = write, on_drain


@contextmanager
def registered_worker(engine: sa.Engine, settings: Settings, *, worker: str, queue: str) -> Iterator[Row]:
    """Keep the worker's row up to date inside the context. At its end the row has the refusal that ended it, if any."""

    def enter() -> None:
        with transaction(engine) as connection:
            start_worker(
                connection,
                worker=worker,
                host=socket.gethostname(),
                pid=os.getpid(),
                queue=queue,
                device=settings.device,
                model=settings.model,
            )

    retry_startup(enter, what="ledger")
    row = Row(engine, worker, settings)
    timer = Timer("worker_row", row.update, seconds=beat_seconds(settings))
    timer.start()
    because = None
    try:
        yield row
    except RequestError as error:
        because = storable(str(error))
        raise
    finally:
        timer.stop()
        try:
            row.update()
            with transaction(engine) as connection:
                stop_worker(connection, worker, because=because)
        except DatabaseUnavailable as error:
            log.warning("worker_row_left_open", error=str(error))
