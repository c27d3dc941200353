"""Limits requests to a scoring server: their rate, and for how long a request is retried."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from scanfleet.errors import DeviceUnavailable
from scanfleet.models.endpoint.errors import EndpointBusy, EndpointMisused
from scanfleet.retry import MAX_BACKOFF_SECONDS, backoff_seconds, jittered

log = structlog.get_logger()

AWAY_SECONDS = 5.0  # after a failed request no stream makes another one
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The clock of the rate limit."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


REAL_TIME = Clock()


class RateLimit:
    """Spaces the requests of all streams evenly. per_minute None: no limit."""

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock.now()

    def wait(self, *, until: float) -> bool:
        """Wait for the caller's turn. Return False at once if it comes after `until`."""
        with self._lock:
            turn = max(self._next, self._clock.now())
            if turn > until:
                return False
            self._next = turn + self._interval
        self._clock.sleep(max(0.0, turn - self._clock.now()))
        return True

    def hold(self, seconds: float) -> None:
        """Postpone the next turn by at least `seconds`, as the server requested."""
        with self._lock:
            self._next = max(self._next, self._clock.now() + seconds)


class RateLimitedServer:
    """Sends the requests of all streams to one server.

    patience_seconds: for one image, including the wait for its turn and all tries. timeout_seconds: for one request; no
    try begins that could exceed the patience.
    """

    def __init__(self, *, rate_limit: RateLimit, patience_seconds: float, timeout_seconds: float, clock: Clock) -> None:
        self._rate_limit = rate_limit
        self._patience = patience_seconds
        self._timeout = timeout_seconds
        self._clock = clock
        self._away: tuple[float, str] = (clock.now(), "")  # until when, reason

    def deadline(self) -> float:
        """Return the deadline of an image that is scored now."""
        return self._clock.now() + self._patience

    def ask(self, call: Callable[[], T], *, deadline: float) -> T:
        """Return what `call` returns, retrying while the server is busy. Raises DeviceUnavailable if that lasts.

        After a failure that concerns all requests there is a pause: repeating a wrong key may lock the account.
        """
        until, reason = self._away
        if self._clock.now() < until:
            raise DeviceUnavailable(reason)
        self._require_turn(deadline)
        for attempt in itertools.count(1):
            try:
                return call()
            except EndpointMisused as error:
                self._leave_alone(AWAY_SECONDS, str(error))
                raise
            except EndpointBusy as busy:
                self._pause(busy, attempt, deadline)
        raise AssertionError("a count has no end")

    def _pause(self, busy: EndpointBusy, attempt: int, deadline: float) -> None:
        asked = min(busy.retry_after or 0.0, MAX_BACKOFF_SECONDS)  # a server may request any time
        self._rate_limit.hold(asked)
        wait = asked + jittered(backoff_seconds(attempt))
        if self._clock.now() + wait > deadline - self._timeout:
            self._leave_alone(max(AWAY_SECONDS, asked), str(busy))
            raise DeviceUnavailable(f"endpoint: {busy}") from busy
        log.warning("endpoint_busy", reason=str(busy), attempt=attempt, retry_seconds=round(wait, 1))
        self._clock.sleep(wait)
        self._require_turn(deadline)

    def _leave_alone(self, seconds: float, reason: str) -> None:
        self._away = (self._clock.now() + seconds, f"endpoint: {reason}")

    def _require_turn(self, deadline: float) -> None:
        if not self._rate_limit.wait(until=deadline - self._timeout):
            raise DeviceUnavailable(
                "endpoint: endpoint_requests_per_minute leaves no request before the image's deadline"
            )
