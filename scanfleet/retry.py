"""How long to wait before the next try, and not all at the same moment.

Waiting for the database to come back: a failure of the world ends no listing and no watch.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Event
from typing import TypeVar

import structlog

from scanfleet.errors import DatabaseUnavailable

T = TypeVar("T")

DELAYS_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
log = structlog.get_logger()


def retry_database(action: Callable[[], T], *, delays: tuple[float, ...] = DELAYS_SECONDS) -> T:
    """Do it; while the database is away, again after each of the delays. `action` must be safe to repeat.

    Raises DatabaseUnavailable after the last one.
    """
    for delay in delays:
        try:
            return action()
        except DatabaseUnavailable as error:
            log.warning("database_away", error=str(error), again_in_seconds=delay)
            Event().wait(delay)
    return action()


MAX_BACKOFF_SECONDS = 60.0


def backoff_seconds(attempts: int) -> float:
    """1, 2, 4 ... 60 seconds.

    >>> [backoff_seconds(attempts) for attempts in (0, 1, 2, 3, 50)]
    [1.0, 1.0, 2.0, 4.0, 60.0]
    """
    doublings = min(max(attempts - 1, 0), 10)  # a large power would overflow
    return min(2.0**doublings, MAX_BACKOFF_SECONDS)


def jittered(seconds: float) -> float:
    """Between half of `seconds` and all of it: what failed together does not come back together.

    "Equal jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311
