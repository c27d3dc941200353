"""Sums by name of the time and tokens of a batch and of a worker. `scanfleet.stats.stage_times` has the names."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from scanfleet.stats.stage_times import COUNTS, THREAD_STAGES
from scanfleet.worker.device.queue import WorkResult
from scanfleet.worker.runtime.utilisation import Occupancy, Span
from scanfleet.worker.scoring.crop_selection import Allowance

MEASURED = (*THREAD_STAGES, "wait", "device", "boxes", "explaining", "pointing", *COUNTS)
LEFT_OVER = "left_over"  # visual tokens that crops of the batch may still take
NO_TIME = Span(under_way=0.0, idle=0.0)


class Stopwatch:
    """The sums of one batch, from several threads.

    span: returns the batch's share of the worker's time so far. n_threads: the number of stage threads. allowance: the
    tokens of its crop pass, whose rest is kept for a further attempt as LEFT_OVER; None: there is no crop pass.
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

    def add_first(self, work: WorkResult, *, further: bool = False) -> None:
        """Count an image that the device has answered in the first pass. further: another picture of the same file."""
        self.add(wait=work.waited, device=work.seconds)
        if work.forwards:
            own = work.tokens - work.padding
            self.add(forwards=work.forwards, tokens=work.tokens, padding=work.padding, first_tokens=own)
            self.add(**({"frames": 1, "frame_tokens": own} if further else {"scored": 1}))

    def add_crop_row(self, work: WorkResult) -> None:
        """Count a row that the device has answered in the crop pass."""
        self.add(wait=work.waited, device=work.seconds)
        if work.forwards:
            own = work.tokens - work.padding
            self.add(forwards=work.forwards, tokens=work.tokens, padding=work.padding)
            self.add(again_tokens=own, again_rows=1)

    def sums(self) -> dict[str, float]:
        span = self._span()
        times = {"under_way": span.under_way, "idle": span.idle, "threads": self._n_threads * span.under_way}
        if self.allowance is not None:
            times[LEFT_OVER] = self.allowance.left_over
        with self._lock:
            return {name: round(value, 4) for name, value in (self._sums | times).items()}


class Totals:
    """The sums of a worker since its start."""

    def __init__(self, occupancy: Occupancy, *, n_threads: int) -> None:
        self._occupancy = occupancy
        self._n_threads = n_threads
        self._lock = threading.Lock()
        self._n_images = 0
        self._sums = dict.fromkeys((*MEASURED, "write"), 0.0)

    def add(self, *, n_images: int, sums: Mapping[str, float]) -> None:
        """Add a batch that has ended."""
        with self._lock:
            self._n_images += n_images
            for name in self._sums:
                self._sums[name] += sums.get(name, 0.0)

    def read(self) -> tuple[int, dict[str, float]]:
        """Return the number of images and the sums. Clock times are as of now, the rest as of the last batch."""
        span = self._occupancy.so_far()
        times = {"under_way": span.under_way, "idle": span.idle, "threads": self._n_threads * span.under_way}
        with self._lock:
            return self._n_images, {name: round(value, 4) for name, value in (self._sums | times).items()}
