"""Calls that a worker repeats while the database or another service is unavailable."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

import structlog

from scanfleet.errors import DatabaseUnavailable, Retryable
from scanfleet.retry import backoff_seconds, jittered, report_database_away, retry
from scanfleet.worker.runtime.shutdown import Stop

log = structlog.get_logger()

MAX_PAUSE_SECONDS = 5.0  # between two tries to reach the database
T = TypeVar("T")


def retry_until(call: Callable[[], T], *, until: Callable[[], float], stop: Stop) -> T:
    """Return what `call` returns. While the database is away and `until` (time.monotonic()) lies ahead, call again.

    Raises the error of the last call, also when the worker is asked to hand everything back.
    """
    pauses = (min(0.1 * backoff_seconds(n), MAX_PAUSE_SECONDS) for n in itertools.count(1))
    return retry(
        call,
        on=DatabaseUnavailable,
        waits=map(jittered, pauses),
        report=report_database_away,
        until=until,
        pause=stop.wait_hand_back,
    )


def retry_startup(call: Callable[[], T], *, what: str, on_error: Callable[[str], None] = lambda _: None) -> T:
    """Return what `call` returns, however often it must be repeated after transient errors. SIGTERM ends the process.

    what: named in the log. on_error: called with the text of each error.
    """

    def report(error: Exception, seconds: float) -> None:
        log.warning("startup_retry", what=what, error=str(error), retry_seconds=round(seconds, 1))
        on_error(str(error))

    waits = map(jittered, map(backoff_seconds, itertools.count(1)))
    return retry(call, on=Retryable, waits=waits, report=report)
