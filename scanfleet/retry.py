"""Calling again after transient errors: how long to wait, and not all at the same moment.

Our own loop and not tenacity's: its sleep ends early on an event, but it then makes one more try, and its deadlines
cannot move as that of a renewed lease does.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from scanfleet.errors import DatabaseUnavailable

T = TypeVar("T")

DELAYS_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MAX_BACKOFF_SECONDS = 60.0
log = structlog.get_logger()


def retry(
    call: Callable[[], T],
    *,
    on: type[Exception],
    waits: Iterable[float],
    report: Callable[[Exception, float], None],
    until: Callable[[], float] = lambda: math.inf,
    pause: Callable[[float], bool | None] = time.sleep,
) -> T:
    """Return what `call` returns. While it raises `on`, report the error, pause, and call again after each of `waits`.

    Raises the error of the last call: when the waits are used up, when one would end after `until` (time.monotonic()),
    or when `pause` returns True. `call` must be safe to repeat.
    """
    for seconds in waits:
        try:
            return call()
        except on as error:
            if time.monotonic() + seconds >= until():
                raise
            report(error, seconds)
            if pause(seconds):
                raise
    return call()


def report_database_away(error: Exception, seconds: float) -> None:
    log.warning("database_away", error=str(error), retry_seconds=round(seconds, 2))


def retry_database(action: Callable[[], T], *, delays: tuple[float, ...] = DELAYS_SECONDS) -> T:
    """Return what `action` returns. While the database is away, call again after each of `delays`.

    `action` must be safe to repeat. Raises DatabaseUnavailable after the last delay.
    """
    return retry(action, on=DatabaseUnavailable, waits=delays, report=report_database_away)


def backoff_seconds(attempts: int) -> float:
    """Return the seconds to wait after `attempts` attempts: 1, 2, 4 ... 60.

    >>> [backoff_seconds(attempts) for attempts in (0, 1, 2, 3, 50)]
    [1.0, 1.0, 2.0, 4.0, 60.0]
    """
    doublings = min(max(attempts - 1, 0), 10)  # a large power would overflow
    return min(2.0**doublings, MAX_BACKOFF_SECONDS)


def jittered(seconds: float) -> float:
    """Return between half of `seconds` and all of it, so that calls that failed together are not repeated together.

    "Equal jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311
