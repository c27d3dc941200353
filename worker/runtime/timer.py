"""Timers of a worker, independent of Celery."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import structlog

from scanfleet.errors import Retryable

log = structlog.get_logger()

JITTER = 0.2  # of the interval, either way: workers must not all call at the same moment
AGAIN_SECONDS = 2.0  # at most, after a transient error: a heartbeat cannot wait another third of a lease
STOP_SECONDS = 1.0  # for a call under way when the timer is stopped


class Timer:
    """Calls a function in a thread, at once and then every `seconds`.

    A transient error is logged, and the call is repeated soon.
    """

    def __init__(self, name: str, call: Callable[[], object], *, seconds: float) -> None:
        self.call = call
        self.seconds = seconds
        self._name = name
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop calling. A call under way gets STOP_SECONDS: it may be waiting for a database that is away."""
        self._stopped.set()
        self._thread.join(STOP_SECONDS)

    def _loop(self) -> None:
        while not self._stopped.is_set():
            seconds = self.seconds if self._once() else min(self.seconds, AGAIN_SECONDS)
            self._stopped.wait(seconds * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

    def _once(self) -> bool:
        """Return True unless a transient error occurred."""
        try:
            self.call()
        except Retryable as error:
            log.warning("timer_retry", timer=self._name, error=str(error))
            return False
        except Exception:
            # A bug in one timer must not end its thread, least of all the heartbeat's.
            log.exception("timer_crashed", timer=self._name)
        return True
