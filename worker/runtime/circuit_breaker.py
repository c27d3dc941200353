"""Stops a worker from taking batches that it cannot score at the moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from scanfleet.retry import backoff_seconds, jittered

log = structlog.get_logger()


class Breaker:
    """Open after trouble with this worker's model or device, for ever longer; closed by the first image scored.

    Other workers may be well, so the ledger knows nothing of it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._trips = 0
        self._open_until = 0.0

    @property
    def seconds_left(self) -> float:
        """How long no batch is to be taken; 0 when all is well or the next one may try."""
        return max(0.0, self._open_until - self._clock())

    def trip(self, why: str) -> None:
        """Trouble. What several batches meet at the same time counts once."""
        with self._lock:
            if self.seconds_left:
                return
            self._trips += 1
            pause = jittered(backoff_seconds(self._trips))
            self._open_until = self._clock() + pause
        log.warning("claims_paused", why=why, seconds=round(pause, 1))

    def reset(self) -> None:
        """An image was scored."""
        with self._lock:
            tripped, self._trips, self._open_until = self._trips, 0, 0.0
        if tripped:
            log.info("claims_resumed")
