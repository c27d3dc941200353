"""Sums by name of what a batch and a worker took; the names are those of `scanfleet.stats.stage_times`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from scanfleet.stats.stage_times import COUNTS, THREAD_STAGES
from worker.device.queue import WorkResult
from worker.runtime.utilisation import Occupancy, Span
from worker.scoring.crop_gate import Allowance

MEASURED = (*THREAD_STAGES, "wait", "device", "boxes", "pointing", *COUNTS)
LEFT_OVER = "left_over"  # visual tokens that second looks of the batch may still take
NO_TIME = Span(under_way=0.0, idle=0.0)


class Stopwatch:
    """Of one batch, from several threads. span: its share of the worker's time so far. n_threads: of the stages.

    allowance: of its second looks, whose rest is kept for a further attempt as LEFT_OVER; None: there are none.
    """

    def __init__(
        self,
        *,
        span: Callable[[], Span] = lambda: NO_TIME,
        n_threads: int = 0,
        allowance: Allowance | None = None,
    ) -> None:
        self.allowance = allowance
        self._span = span
        self._n_threads = n_threads
        self._lock = threading.Lock()
        self._sums: dict[str, float] = dict.fromkeys(MEASURED, 0.0)

    def add(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{stage: time.perf_counter() - start})

    def answered(self, given: WorkResult) -> None:
        """An image came back from the device."""
        self.add(wait=given.waited, device=given.seconds)
        if given.forwards:
            own = given.tokens - given.padding
            self.add(forwards=given.forwards, scored=1, tokens=given.tokens, padding=given.padding, first_tokens=own)

    def read_again(self, given: WorkResult) -> None:
        """A row of a second look came back."""
        self.add(wait=given.waited, device=given.seconds)
        if given.forwards:
            own = given.tokens - given.padding
            self.add(forwards=given.forwards, tokens=given.tokens, padding=given.padding)
            self.add(again_tokens=own, again_rows=1)

    def sums(self) -> dict[str, float]:
        span = self._span()
        times = {"under_way": span.under_way, "idle": span.idle, "threads": self._n_threads * span.under_way}
        if self.allowance is not None:
            times[LEFT_OVER] = self.allowance.left_over
        with self._lock:
            return {name: round(value, 4) for name, value in (self._sums | times).items()}


class Totals:
    """What a worker did since it started."""

    def __init__(self, occupancy: Occupancy, *, n_threads: int) -> None:
        self._occupancy = occupancy
        self._n_threads = n_threads
        self._lock = threading.Lock()
        self._n_images = 0
        self._sums = dict.fromkeys((*MEASURED, "write"), 0.0)

    def add(self, *, n_images: int, sums: Mapping[str, float]) -> None:
        """A batch that ended."""
        with self._lock:
            self._n_images += n_images
            for name in self._sums:
                self._sums[name] += sums.get(name, 0.0)

    def read(self) -> tuple[int, dict[str, float]]:
        """Images that ended, and the sums. The clock's share is as of now, the rest as of the last batch that ended."""
        span = self._occupancy.so_far()
        times = {"under_way": span.under_way, "idle": span.idle, "threads": self._n_threads * span.under_way}
        with self._lock:
            return self._n_images, {name: round(value, 4) for name, value in (self._sums | times).items()}
