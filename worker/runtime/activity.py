"""Signs of life of a worker and of each batch under way, for `worker.processes.hang_detector` to look at.

A sign is anything that happened: an image fetched, decoded, answered. Who starts something that may take long says how
long, so that a slow download is not taken for a hang.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SEEN_BATCHES = 1000  # whose duration is remembered


class Activity:
    """One thing that lives. `n` grows with every sign. `parent` lives where this does."""

    def __init__(self, *, parent: Activity | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._parent = parent
        self._clock = clock
        self._lock = threading.Lock()
        self._expected: dict[object, float] = {}  # what is under way -> when it must have ended
        self.n = 0

    def sign(self) -> None:
        """Something happened."""
        with self._lock:
            self.n += 1
        if self._parent is not None:
            self._parent.sign()

    def expect(self, *, seconds: float) -> Callable[[], None]:
        """Something begins that may take so long without a sign. Call what is returned when it has ended."""
        token = object()
        with self._lock:
            self._expected[token] = self._clock() + seconds
        above = None if self._parent is None else self._parent.expect(seconds=seconds)

        def ended() -> None:
            with self._lock:
                self._expected.pop(token, None)
            self.sign()
            if above is not None:
                above()

        return ended

    @property
    def in_hand(self) -> bool:
        """Whether anything that was begun has not ended."""
        return bool(self._expected)

    @property
    def excused(self) -> bool:
        """Whether something is under way that was announced to take this long."""
        with self._lock:
            return any(self._clock() < until for until in self._expected.values())


class BatchActivity(Activity):
    """Of one batch. `abort(why)` hands it back; `name` is for the log."""

    def __init__(
        self, parent: Activity, abort: Callable[[str], None], *, name: str, clock: Callable[[], float]
    ) -> None:
        super().__init__(parent=parent, clock=clock)
        self.abort = abort
        self.name = name


class ActivityTracker:
    """Of a whole worker."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._batches: set[BatchActivity] = set()
        self._seconds: deque[float] = deque(maxlen=SEEN_BATCHES)
        self.whole = Activity(clock=clock)

    def activity(self, abort: Callable[[str], None], *, name: str) -> BatchActivity:
        """For a batch that is about to begin."""
        return BatchActivity(self.whole, abort, name=name, clock=self._clock)

    @contextmanager
    def under_way(self, activity: BatchActivity) -> Iterator[None]:
        """The batch is worked on in here."""
        start = self._clock()
        with self._lock:
            self._batches.add(activity)
        activity.sign()
        try:
            yield
        finally:
            activity.sign()
            with self._lock:
                self._batches.discard(activity)
                self._seconds.append(self._clock() - start)

    def batches(self) -> list[BatchActivity]:
        """Those under way."""
        with self._lock:
            return list(self._batches)

    def slowest_seconds(self) -> float:
        """What 99 of 100 batches did not exceed; 0 before the first."""
        with self._lock:
            seconds = sorted(self._seconds)
        return seconds[int(0.99 * (len(seconds) - 1))] if seconds else 0.0
