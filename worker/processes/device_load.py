"""What the processes of one device did, as their rows in the ledger say."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
import structlog

from scanfleet.config.settings import Settings
from scanfleet.db.engine import connect, reading
from scanfleet.db.tables import Worker
from scanfleet.errors import DatabaseUnavailable
from scanfleet.stats.stage_times import StageTimes
from scanfleet.worker.processes.process_count import Span

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class _Beat:
    at: datetime
    times: StageTimes


class DeviceLoad:
    """Reads the rows of processes by their ids. Windows are those between two heartbeats of each process."""

    def __init__(self, settings: Settings) -> None:
        self._engine = connect(settings)
        self._before: Mapping[int, _Beat] = {}

    def since_last(self, pids: Sequence[int]) -> Span | None:
        """Return what happened since the last call; None: the ledger is away, or nothing is known yet."""
        try:
            now = self._read(pids)
        except DatabaseUnavailable as error:
            log.warning("device_load_not_read", error=str(error))
            return None
        before, self._before = self._before, now
        both = [(before[pid], now[pid]) for pid in pids if pid in before and pid in now]
        seconds = [(late.at - early.at).total_seconds() for early, late in both]
        if not seconds or min(seconds) <= 0:
            return None
        passed = [late.times.since(early.times) for early, late in both]
        mean = sum(seconds) / len(seconds)
        return Span(
            seconds=mean,
            scored=mean * sum(each["scored"] / own for each, own in zip(passed, seconds, strict=True)),
            under_way=sum(each["under_way"] for each in passed) / len(passed),
            idle=sum(each["idle"] for each in passed) / len(passed),
            free_cores=len(os.sched_getaffinity(0)) - os.getloadavg()[0],
            n_ready=len(both),
        )

    def close(self) -> None:
        self._engine.dispose()

    def _read(self, pids: Sequence[int]) -> dict[int, _Beat]:
        """Return the newest heartbeat of each process that is ready."""
        query = (
            sa.select(Worker.pid, Worker.beat_at, Worker.seconds)
            .where(Worker.host == socket.gethostname(), Worker.pid.in_(pids), Worker.ready_at.is_not(None))
            .where(Worker.stopped_at.is_(None))
            .order_by(Worker.started_at)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return {row.pid: _Beat(at=row.beat_at, times=StageTimes(sums=row.seconds or {})) for row in rows}
