"""How many processes share a device: one more while it waits for them, and none that does not help. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_SECONDS = 60.0  # of steady work, that a rate is measured over
BUSY_SHARE = 0.8  # of that time with batches under way: less tells nothing about the device
IDLE_SHARE = 0.15  # of a process's time with work: the device waits for its host
GAIN = 1.05  # what a further process must make of the rate, else it ends again
MOST = 8  # processes of one device: each holds the weights once more


@dataclass(frozen=True, kw_only=True)
class Span:
    """What the processes of one device did in a window.

    scored: images. under_way, idle: seconds, the mean over the processes. free_cores: of the host. n_ready: processes
    that were ready all the time.
    """

    seconds: float
    scored: float
    under_way: float
    idle: float
    free_cores: float
    n_ready: int


class ProcessCount:
    """Call `check` once a window. most: at most as many, also for a device that stays idle."""

    def __init__(self, *, n: int = 1, most: int = MOST) -> None:
        self.n = n
        self._most = most
        self._before: float | None = None  # images/s with one process fewer, while the newest one is on trial
        self._settled = False

    def check(self, span: Span) -> int:
        """Return how many processes there are to be now."""
        if span.n_ready != self.n or span.under_way < BUSY_SHARE * span.seconds:
            return self.n
        rate = span.scored / span.seconds
        if self._before is not None and rate < GAIN * self._before:
            self._before, self._settled = None, True
            self.n -= 1
            return self.n
        self._before = None
        if not self._settled and self.n < self._most and span.free_cores >= 1 and _idle(span):
            self._before = rate
            self.n += 1
        return self.n


def _idle(span: Span) -> bool:
    return span.under_way > 0 and span.idle > IDLE_SHARE * span.under_way
