"""Calls made again while the database, or anything outside, is away."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from scanfleet.errors import DatabaseUnavailable, Retryable
from scanfleet.retry import backoff_seconds, jittered
from worker.runtime.shutdown import Stop

log = structlog.get_logger()

MAX_PAUSE_SECONDS = 5.0  # between two tries to reach the database
T = TypeVar("T")


def retry_until(call: Callable[[], T], *, until: Callable[[], float], stop: Stop) -> T:
    """Call again, with growing pauses, while the database is away and `until` (time.monotonic()) lies ahead.

    Raises what the last call raised.
    """
    pause = 0.1
    while True:
        try:
            return call()
        except DatabaseUnavailable as error:
            wait = jittered(pause)
            if time.monotonic() + wait >= until() or stop.wait_hand_back(wait):
                raise
            log.warning("database_away", error=str(error), retry_seconds=round(wait, 2))
            pause = min(2 * pause, MAX_PAUSE_SECONDS)


def retry_startup(call: Callable[[], T], *, what: str, tell: Callable[[str], None] = lambda _: None) -> T:
    """Call again, with growing pauses, while the world fails. SIGTERM ends the process meanwhile.

    tell: is told each time what failed.
    """
    for attempt in itertools.count(1):
        try:
            return call()
        except Retryable as error:
            pause = jittered(backoff_seconds(attempt))
            log.warning("startup_retry", what=what, error=str(error), retry_seconds=round(pause, 1))
            tell(str(error))
            time.sleep(pause)
    raise AssertionError("unreachable")
