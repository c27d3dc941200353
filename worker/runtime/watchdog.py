"""Ends a worker whose consumer has stalled.

A half-open connection can leave a Celery consumer alive and silent forever. The database shows it: batches of this
queue are ready, reconcilers notify of them, the broker responds, and yet nothing reaches this idle process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import kombu.exceptions
import sqlalchemy as sa
import structlog
from celery import Celery

from scanfleet.db.engine import reading
from scanfleet.db.scans import batches

log = structlog.get_logger()


class Watchdog:
    """Checks on a timer whether notifications arrive; calls `stalled` after `patience_seconds` of silence.

    n_taken: how many batches the pipeline has claimed so far. active: how many are under way.
    """

    def __init__(
        self,
        *,
        has_work: Callable[[], bool],
        broker_responds: Callable[[], bool],
        n_taken: Callable[[], int],
        active: Callable[[], int],
        stalled: Callable[[], None],
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._has_work = has_work
        self._broker_responds = broker_responds
        self._n_taken = n_taken
        self._active = active
        self._stalled = stalled
        self._patience = patience_seconds
        self._clock = clock
        self._since: float | None = None  # when the silence began
        self._seen = -1  # n_taken at the last check

    def check(self) -> None:
        """Raises DatabaseUnavailable, which does not count as silence."""
        taken = self._n_taken()
        active = taken != self._seen or self._active() > 0
        self._seen = taken
        if active or not self._has_work():
            self._since = None
            return
        if self._since is None:
            self._since = self._clock()
        if self._clock() - self._since < self._patience:
            return
        if self._broker_responds():
            log.error("consumer_stalled", silent_seconds=round(self._clock() - self._since))
            self._stalled()
        self._since = None


def work_in(engine: sa.Engine, model: str) -> Callable[[], bool]:
    """Return a function that returns whether the database holds a batch that workers of `model` could claim now."""

    def has_work() -> bool:
        with reading(engine) as connection:
            return batches.has_ready(connection, model)

    return has_work


def responds(app: Celery) -> Callable[[], bool]:
    """Return a function that returns whether the broker accepts a new connection."""

    def broker_responds() -> bool:
        try:
            with app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=5)
        except (kombu.exceptions.OperationalError, OSError):
            return False
        return True

    return broker_responds
