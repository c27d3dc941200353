"""Limits of requests, in the memory of one process: with N processes a limit is N times as high."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

MAX_KEYS: Final = 10_000  # a flood of addresses must not fill the memory


class Rate:
    """A bucket for each key, which holds `per_minute` and fills evenly."""

    def __init__(self, per_minute: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}  # key -> what was left, and when

    def take(self, key: str) -> float:
        """Take one. Returns 0, or how many seconds to wait where none is left, and takes nothing."""
        with self._lock:
            left = self._now_left(key)
            if left < 1:
                return (1 - left) * 60 / self._per_minute
            self._set(key, left - 1)
            return 0.0

    def wait(self, key: str) -> float:
        """Return how many seconds to wait for one, and take nothing."""
        with self._lock:
            return max(0.0, 1 - self._now_left(key)) * 60 / self._per_minute

    def _now_left(self, key: str) -> float:
        left, at = self._left.get(key, (self._per_minute, 0.0))
        return min(self._per_minute, left + max(self._clock() - at, 0.0) * self._per_minute / 60)

    def _set(self, key: str, left: float) -> None:
        self._left.pop(key, None)
        self._left[key] = (left, self._clock())
        if len(self._left) > MAX_KEYS:
            del self._left[next(iter(self._left))]  # the one that was used longest ago
