"""How long batches were under way in a worker, and how long its device was idle meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Span:
    """Wall-clock seconds. idle: those without a forward; with several streams, the mean over the streams."""

    under_way: float
    idle: float


class Occupancy:
    """Counts time under way and idle. Each of n concurrent batches has 1/n of it, so shares add up to the worker's."""

    def __init__(self, *, streams: int = 1, clock: Callable[[], float] = time.perf_counter) -> None:
        self._streams = streams
        self._clock = clock
        self._lock = threading.Lock()
        self._at = clock()
        self._batches = 0
        self._forwards = 0
        self._under_way = self._idle = 0.0  # of the worker
        self._share = self._idle_share = 0.0  # of a hypothetical batch under way all the time

    @contextmanager
    def batch(self) -> Iterator[Callable[[], Span]]:
        """Mark a batch as under way inside the context. Call the yielded function for the batch's share so far."""
        with self._lock:
            self._pass_time()
            share, idle = self._share, self._idle_share
            self._batches += 1

        def so_far() -> Span:
            with self._lock:
                self._pass_time()
                return Span(under_way=self._share - share, idle=self._idle_share - idle)

        try:
            yield so_far
        finally:
            with self._lock:
                self._pass_time()
                self._batches -= 1

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Mark a stream as running a forward inside the context."""
        with self._lock:
            self._pass_time()
            self._forwards += 1
        try:
            yield
        finally:
            with self._lock:
                self._pass_time()
                self._forwards -= 1

    def so_far(self) -> Span:
        """Return the span of the worker since its start."""
        with self._lock:
            self._pass_time()
            return Span(under_way=self._under_way, idle=self._idle)

    def _pass_time(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        if not self._batches:
            return
        idle = passed * (1 - self._forwards / self._streams)
        self._under_way += passed
        self._idle += idle
        self._share += passed / self._batches
        self._idle_share += idle / self._batches
