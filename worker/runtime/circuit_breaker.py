"""Keeps a worker from claiming batches that it cannot score at the moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from scanfleet.retry import backoff_seconds, jittered

log = structlog.get_logger()


class Breaker:
    """Opens after an error of this worker's model or device, each time for longer; the first scored image closes it.

    The database does not record it: other workers may be fine.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._trips = 0
        self._open_until = 0.0

    @property
    def seconds_left(self) -> float:
        """For how long the worker claims no batch; 0 if it may claim one."""
        return max(0.0, self._open_until - self._clock())

    def trip(self, reason: str) -> None:
        """Record an error. Errors of several batches at the same time count once."""
        with self._lock:
            if self.seconds_left:
                return
            self._trips += 1
            pause = jittered(backoff_seconds(self._trips))
            self._open_until = self._clock() + pause
        log.warning("claims_paused", reason=reason, seconds=round(pause, 1))

    def reset(self) -> None:
        """Record that an image was scored."""
        with self._lock:
            tripped, self._trips, self._open_until = self._trips, 0, 0.0
        if tripped:
            log.info("claims_resumed")
