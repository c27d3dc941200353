"""The progress of a training: reported by the child process, tracked by its parent."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

PROGRESS_SECONDS = 0.5  # between two reports about the same stage
FURTHEST = "furthest"  # [number of the stage, step in it]
RETRY_COUNTS = ("crashes", "losses", "retries")  # reset when a training gets further than before


class StopRequested(Exception):
    """The worker is stopping: finished stages stay in the work folder."""


class Send(Protocol):
    def __call__(self, kind: str, **fields: Any) -> None: ...


class ProgressReporter:
    """Reports the current stage and figures, and raises StopRequested when the training has to stop."""

    def __init__(self, send: Send, *, stop: Callable[[], bool] = lambda: False) -> None:
        self._send = send
        self._stop = stop
        self._stage, self._number = "", 0
        self._sent_at = 0.0

    def begin(self, stage: str, number: int) -> None:
        self.check_stop()
        self._stage, self._number = stage, number
        self._sent_at = 0.0
        self.report()

    def report(self, **figures: Any) -> None:
        """figures: for people; None is left out. Raises StopRequested."""
        if time.monotonic() - self._sent_at >= PROGRESS_SECONDS:
            self._sent_at = time.monotonic()
            shown = {name: value for name, value in to_json(figures).items() if value is not None}
            self._send("progress", stage=self._stage, number=self._number, figures=shown)
        self.check_stop()

    def count(self, done: int, total: int) -> None:
        self.report(step=done, steps=total)

    def check_stop(self) -> None:
        if self._stop():
            raise StopRequested


class ProgressTracker:
    """The latest progress of the child. The thread that reads its messages writes it; the heartbeat reads it."""

    def __init__(self, stage: str | None, progress: dict[str, Any] | None) -> None:
        """The values in the row of the training."""
        self._lock = threading.Lock()
        self._stage = stage
        self._kept = {name: value for name, value in (progress or {}).items() if name in (FURTHEST, *RETRY_COUNTS)}
        self._figures: dict[str, Any] = dict(progress or {})

    def update(self, stage: str, number: int, figures: dict[str, Any]) -> bool:
        """figures: for people, with `step` if the stage has steps. Returns whether a new stage began."""
        with self._lock:
            began = stage != self._stage
            position = [number, int(figures.get("step", 0))]
            if position > self._kept.get(FURTHEST, []):
                self._kept = {FURTHEST: position}
            self._stage = stage
            self._figures = dict(figures)
            return began

    def current(self) -> tuple[str | None, dict[str, Any]]:
        """Stage and progress, for the row of the training."""
        with self._lock:
            return self._stage, self._figures | self._kept


def to_json(value: Any) -> Any:
    """The value as JSON types. Floats that are not finite, such as a diverged loss, become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): to_json(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(inner) for inner in value]
    return value
