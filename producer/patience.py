"""Waiting for the database to come back: a failure of the world ends no listing and no watch."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import TypeVar

import structlog

from scanfleet.errors import DatabaseUnavailable

T = TypeVar("T")

DELAYS_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
log = structlog.get_logger()


def patiently(action: Callable[[], T], *, delays: tuple[float, ...] = DELAYS_SECONDS) -> T:
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
