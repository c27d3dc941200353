"""Ends a worker that has gone deaf.

A half-open connection can leave a Celery consumer alive and silent for ever. The ledger shows it: batches of our queue
are ready, the reconcilers knock for them, the broker answers, and yet nothing reaches this idle process.
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
    """`look` is called on a timer; `deaf` is called once the silence has lasted `patience_seconds`.

    n_taken: how many batches the pipeline has taken so far. active: how many it is working on.
    """

    def __init__(
        self,
        *,
        has_work: Callable[[], bool],
        broker_answers: Callable[[], bool],
        n_taken: Callable[[], int],
        active: Callable[[], int],
        stalled: Callable[[], None],
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._has_work = has_work
        self._broker_answers = broker_answers
        self._n_taken = n_taken
        self._active = active
        self._deaf = stalled
        self._patience = patience_seconds
        self._clock = clock
        self._since: float | None = None  # when the silence began
        self._seen = -1

    def look(self) -> None:
        """Raises DatabaseUnavailable: what cannot be seen is no silence."""
        taken = self._n_taken()
        heard = taken != self._seen or self._active() > 0
        self._seen = taken
        if heard or not self._has_work():
            self._since = None
            return
        if self._since is None:
            self._since = self._clock()
        if self._clock() - self._since < self._patience:
            return
        if self._broker_answers():
            log.error("consumer_stalled", silent_seconds=round(self._clock() - self._since))
            self._deaf()
        self._since = None


def work_in(engine: sa.Engine, queue: str) -> Callable[[], bool]:
    """Whether the ledger holds a batch that this queue's workers could take now."""

    def has_work() -> bool:
        with reading(engine) as connection:
            return batches.has_ready(connection, queue)

    return has_work


def answers(app: Celery) -> Callable[[], bool]:
    """Whether the broker takes a new connection."""

    def broker_answers() -> bool:
        try:
            with app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=5)
        except (kombu.exceptions.OperationalError, OSError):
            return False
        return True

    return broker_answers
