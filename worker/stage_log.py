"""Says in the log, from time to time, where a worker's time goes."""

from __future__ import annotations

import structlog

from scanfleet.stage_times import ADVICE, StageTimes
from worker.timing import Totals

log = structlog.get_logger()


class StageLog:
    """`look` is called on a timer: it says what came since the last time, and nothing where nothing was scored."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._before = StageTimes(sums={})

    def look(self) -> None:
        now = self._read()
        self._say("stage_times", now.since(self._before))
        self._before = now

    def end(self) -> None:
        """All since the start."""
        self._say("stage_times_total", self._read())

    def _read(self) -> StageTimes:
        return StageTimes(sums=self._totals.read()[1])

    def _say(self, event: str, times: StageTimes) -> None:
        if times.bottleneck is not None:
            log.info(event, **times.record(), what_helps=ADVICE[times.bottleneck])
