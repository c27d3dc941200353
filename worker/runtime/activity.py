"""Activity of a worker and of each batch under way, which `worker.processes.hang_detector` checks.

A sign of activity is any event: an image fetched, decoded or scored. A caller that starts a long operation announces
its longest duration, so that a slow download is not taken for a hang.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SEEN_BATCHES = 1000  # the last ones, whose durations are kept


class Activity:
    """The activity of one batch or worker. `n` counts its signs, which count for `parent` too."""

    def __init__(self, *, parent: Activity | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._parent = parent
        self._clock = clock
        self._lock = threading.Lock()
        self._expected: dict[object, float] = {}  # operation under way -> when it must have ended
        self.n = 0

    def sign(self) -> None:
        """Record that something happened."""
        with self._lock:
            self.n += 1
        if self._parent is not None:
            self._parent.sign()

    def expect(self, *, seconds: float) -> Callable[[], None]:
        """Announce an operation that may take `seconds` without a sign. Call the returned function at its end."""
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
        """True while an announced operation has not ended."""
        return bool(self._expected)

    @property
    def excused(self) -> bool:
        """True while an announced operation is within its time."""
        with self._lock:
            return any(self._clock() < until for until in self._expected.values())


class BatchActivity(Activity):
    """The activity of one batch. `abort(reason)` hands the batch back; `name` is for the log."""

    def __init__(
        self, parent: Activity, abort: Callable[[str], None], *, name: str, clock: Callable[[], float]
    ) -> None:
        super().__init__(parent=parent, clock=clock)
        self.abort = abort
        self.name = name


class ActivityTracker:
    """The activity of a whole worker and of its batches."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._batches: set[BatchActivity] = set()
        self._seconds: deque[float] = deque(maxlen=SEEN_BATCHES)
        self.whole = Activity(clock=clock)

    def activity(self, abort: Callable[[str], None], *, name: str) -> BatchActivity:
        """Return the activity of a batch that is about to begin."""
        return BatchActivity(self.whole, abort, name=name, clock=self._clock)

    @contextmanager
    def under_way(self, activity: BatchActivity) -> Iterator[None]:
        """Mark the batch as under way inside the context."""
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
        """Return the activities of the batches under way."""
        with self._lock:
            return list(self._batches)

    def slowest_seconds(self) -> float:
        """Return the 99th percentile of the batches' durations; 0 before the first batch."""
        with self._lock:
            seconds = sorted(self._seconds)
        return seconds[int(0.99 * (len(seconds) - 1))] if seconds else 0.0
