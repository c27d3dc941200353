"""The last measured rate of a model's workers, and how many of them a time needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from scanfleet.db.tables import Worker
from scanfleet.messages import score_queue
from scanfleet.stats.stage_times import StageTimes

N_WORKERS = 10  # the newest ones that scored
LEAST_IMAGES = 64  # of a worker whose rate counts: a batch


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Of one worker while it has work. device: the card's name, or the device's. at: the newest heartbeat that counts.

    load_seconds: from the start of a worker to its first batch; None: not measured.
    """

    images_per_second: float
    n_workers: int
    device: str
    at: datetime
    load_seconds: float | None

    @property
    def source(self) -> str:
        """Say where it comes from."""
        workers = "1 worker" if self.n_workers == 1 else f"{self.n_workers} workers"
        return f"measured by {workers} on {self.device}, last {self.at:%Y-%m-%d %H:%M} UTC"


def last_rate(connection: sa.Connection, model: str) -> Rate | None:
    """Return the rate of the newest workers of a model, those of the same device; None: none has scored a batch yet."""
    query = (
        sa.select(Worker.device, Worker.device_kind, Worker.seconds, Worker.beat_at, Worker.load_seconds)
        .where(Worker.queue == score_queue(model), Worker.n_images >= LEAST_IMAGES, _is_of(model))
        .order_by(Worker.beat_at.desc())
        .limit(N_WORKERS)
    )
    rows = connection.execute(query).all()
    alike = [row for row in rows if (row.device_kind or row.device) == (rows[0].device_kind or rows[0].device)]
    times = [StageTimes(sums=row.seconds or {}) for row in alike]
    under_way = sum(each["under_way"] for each in times)
    scored = sum(each["scored"] for each in times)
    if not under_way or not scored:
        return None
    loads = [row.load_seconds for row in alike if row.load_seconds is not None]
    return Rate(
        images_per_second=scored / under_way,
        n_workers=len(alike),
        device=rows[0].device_kind or rows[0].device,
        at=rows[0].beat_at,
        load_seconds=max(loads) if loads else None,
    )


def _is_of(model: str) -> sa.ColumnElement[bool]:
    """Two models may share the name of a queue; workers of a release before have no model."""
    return sa.or_(Worker.model == model, Worker.model.is_(None))


def wanted(n_images: int, rate: Rate | None, *, minutes: float) -> int:
    """Return how many workers score these images within `minutes`; without a rate one, to measure it. 0 for none."""
    if n_images == 0 or rate is None:
        return min(n_images, 1)
    return max(1, math.ceil(n_images / (rate.images_per_second * minutes * 60)))
