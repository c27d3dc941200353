"""What a worker does beside scoring, on timers of its own and not through Celery."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

from scanfleet.errors import Retryable

log = structlog.get_logger()

JITTER = 0.2  # of the interval, either way: many workers do not all come at once


class Timer:
    """Calls a function at once and then again and again, in a thread.

    A failure of the world costs a warning and one interval.
    """

    def __init__(self, name: str, call: Callable[[], object], *, seconds: float) -> None:
        self._name = name
        self._call = call
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the call under way, if any, has ended."""
        self._stopped.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self._once()
            self._stopped.wait(self._seconds * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

    def _once(self) -> None:
        try:
            self._call()
        except Retryable as error:
            log.warning("timer_waits_for_the_world", timer=self._name, error=str(error))
        except Exception:
            # A bug in one timer must not end its thread, least of all the heartbeat's.
            log.exception("timer_crashed", timer=self._name)
