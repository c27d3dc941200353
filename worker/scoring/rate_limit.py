"""The way to a server that scores for us: how often it may be asked, and for how long it is worth trying."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from models.endpoint.errors import EndpointBusy, EndpointMisused
from scanfleet.errors import DeviceUnavailable
from scanfleet.retry import MAX_BACKOFF_SECONDS, backoff_seconds, jittered

log = structlog.get_logger()

AWAY_SECONDS = 5.0  # nobody else asks a server that somebody has just tried in vain
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time as a line sees it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


REAL_TIME = Clock()


class RateLimit:
    """Requests of all lanes, evenly spaced. per_minute None: no limit."""

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock.now()

    def wait(self, *, until: float) -> bool:
        """Wait for our turn. False, and at once, when it comes after `until`."""
        with self._lock:
            turn = max(self._next, self._clock.now())
            if turn > until:
                return False
            self._next = turn + self._interval
        self._clock.sleep(max(0.0, turn - self._clock.now()))
        return True

    def hold(self, seconds: float) -> None:
        """Nobody's turn comes sooner: the server asked for it."""
        with self._lock:
            self._next = max(self._next, self._clock.now() + seconds)


class RateLimitedServer:
    """Shared by all lanes.

    patience_seconds: for one image, the wait for its turn and all tries included. timeout_seconds: of one request; no
    try begins that could outlast the patience.
    """

    def __init__(self, *, pace: RateLimit, patience_seconds: float, timeout_seconds: float, clock: Clock) -> None:
        self._pace = pace
        self._patience = patience_seconds
        self._timeout = timeout_seconds
        self._clock = clock
        self._away: tuple[float, str] = (clock.now(), "")  # until when, why

    def deadline(self) -> float:
        """Of an image that is taken in hand now."""
        return self._clock.now() + self._patience

    def ask(self, call: Callable[[], T], *, deadline: float) -> T:
        """What `call` gives, tried again while its server is busy. Raises DeviceUnavailable when that lasts.

        A server that takes nobody's requests is left alone for a while: to try a wrong key often may lock the account.
        """
        until, why = self._away
        if self._clock.now() < until:
            raise DeviceUnavailable(why)
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
        asked = min(busy.retry_after or 0.0, MAX_BACKOFF_SECONDS)  # a server may ask for anything
        self._pace.hold(asked)
        wait = asked + jittered(backoff_seconds(attempt))
        if self._clock.now() + wait > deadline - self._timeout:
            self._leave_alone(max(AWAY_SECONDS, asked), str(busy))
            raise DeviceUnavailable(f"endpoint: {busy}") from busy
        log.warning("endpoint_busy", why=str(busy), attempt=attempt, retry_seconds=round(wait, 1))
        self._clock.sleep(wait)
        self._require_turn(deadline)

    def _leave_alone(self, seconds: float, why: str) -> None:
        self._away = (self._clock.now() + seconds, f"endpoint: {why}")

    def _require_turn(self, deadline: float) -> None:
        if not self._pace.wait(until=deadline - self._timeout):
            raise DeviceUnavailable("endpoint: the server's limit of requests is used up for now")
