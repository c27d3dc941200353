"""Detects hangs: of a forward, of one batch among others, of the whole worker.

    a forward      longer than device_timeout_seconds                      the device hangs: the process ends
    a batch        no activity for batch_stall_seconds while others have   it is handed back
    the worker     batches under way and no activity at all for
                   max(3 x p99 of its batches, worker_stall_seconds)       the process ends

Not a hang: waiting for the database (a batch does that no longer than its lease), a download within its deadline, and a
process that was itself frozen: silence is measured between our own checks, and a frozen process makes none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from scanfleet.config.settings import Settings
from scanfleet.worker.device.executor import Device
from scanfleet.worker.runtime.activity import ActivityTracker, BatchActivity

log = structlog.get_logger()

CHECKS = 10  # within the shortest of the limits
MAX_CHECK_SECONDS = 10.0
LATE = 2.0  # intervals: after a longer one the process must have been frozen or starved
P99_FACTOR = 3.0
WAITING = 3.0  # times the limit of a batch
LEASES = 2.0  # a batch waits for the database for a lease when it begins, and for another when it ends


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The longest silences, in seconds, that are no hang."""

    forward: float
    batch: float
    worker: float

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            forward=settings.device_timeout_seconds,
            batch=settings.batch_stall_seconds,
            worker=max(settings.worker_stall_seconds, LEASES * settings.lease_seconds),
        )

    @property
    def check_seconds(self) -> float:
        """The interval between two checks."""
        return min(MAX_CHECK_SECONDS, min(self.forward, self.batch, self.worker) / CHECKS)


@dataclass
class _Silence:
    """For how long a value has not changed, on the caller's clock."""

    seen: object = None
    since: float = 0.0

    def of(self, value: object, now: float) -> float:
        if value != self.seen:
            self.seen, self.since = value, now
        return now - self.since


@dataclass
class HangWatch:
    """Checks on a timer for hangs. `on_hung` gets the reason, and must end the process.

    counts: batches claimed and batches under way, which change when a batch begins or ends.
    """

    device: Device
    tracker: ActivityTracker
    counts: Callable[[], tuple[int, int]]
    limits: Limits
    on_hung: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _now: float = 0.0  # seconds covered by checks
    _checked_at: float | None = None
    _forward: _Silence = field(default_factory=_Silence)
    _worker: _Silence = field(default_factory=_Silence)
    _batches: dict[BatchActivity, _Silence] = field(default_factory=dict)

    def check(self) -> None:
        self._pass_time()
        forward = self.device.forward
        silent = self._forward.of(forward, self._now)
        if forward is not None and silent > self.limits.forward:
            self.on_hung(f"the device hangs: a forward has taken {silent:.0f} s (device_timeout_seconds)")
            return
        n_taken, n_active = self.counts()
        idle = self._worker.of((self.tracker.whole.n, n_taken, n_active, forward), self._now)
        limit = max(self.limits.worker, P99_FACTOR * self.tracker.slowest_seconds())
        if n_active and forward is None and idle > limit and not self.tracker.whole.excused:
            self.on_hung(f"no progress for {idle:.0f} s with {n_active} batches under way (worker_stall_seconds)")
            return
        self._check_batches(waiting=forward is not None and silent > self.limits.batch / 2, idle=idle)

    def _pass_time(self) -> None:
        now = self.clock()
        if self._checked_at is not None:
            self._now += min(now - self._checked_at, LATE * self.limits.check_seconds)
        self._checked_at = now

    def _check_batches(self, *, waiting: bool, idle: float) -> None:
        """waiting: whether a long forward holds up all batches. idle: seconds without activity of the worker."""
        found = self.tracker.batches()
        self._batches = {activity: self._batches.get(activity, _Silence()) for activity in found}
        for activity, silence in self._batches.items():
            silent = silence.of(activity.n, self._now)
            # A batch without an operation under way waits for its turn, behind the slow downloads of others.
            limit = self.limits.batch if activity.in_hand else WAITING * self.limits.batch
            others_active = idle < self.limits.batch / 2
            if silent > limit and others_active and not waiting and not activity.excused:
                log.warning("batch_stuck", batch=activity.name, silent_seconds=round(silent))
                activity.abort(f"no progress for {silent:.0f} s")
