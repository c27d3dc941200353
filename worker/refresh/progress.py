"""What the parent knows of a training under way, and whether it got further than any attempt before."""

from __future__ import annotations

import threading
from typing import Any

FURTHEST = "furthest"  # [number of the stage, step in it]
IN_VAIN = ("crashes", "losses", "retries")  # counts that begin anew when a training gets further


class Standing:
    """Filled by the thread that hears the child; read by the heartbeat."""

    def __init__(self, stage: str | None, progress: dict[str, Any] | None) -> None:
        """As the row of the training says it."""
        self._lock = threading.Lock()
        self._stage = stage
        self._kept = {name: value for name, value in (progress or {}).items() if name in (FURTHEST, *IN_VAIN)}
        self._shown: dict[str, Any] = dict(progress or {})

    def note(self, stage: str, number: int, figures: dict[str, Any]) -> bool:
        """figures: for people, with `step` where there are steps. Returns whether a stage began."""
        with self._lock:
            began = stage != self._stage
            here = [number, int(figures.get("step", 0))]
            if here > self._kept.get(FURTHEST, []):
                self._kept = {FURTHEST: here}
            self._stage = stage
            self._shown = dict(figures)
            return began

    def read(self) -> tuple[str | None, dict[str, Any]]:
        """Stage, and progress as the row keeps it."""
        with self._lock:
            return self._stage, self._shown | self._kept
