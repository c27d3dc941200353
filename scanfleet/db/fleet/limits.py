"""Limits of a scan: what pauses it. A person resumes it with a higher one.

`scans.limits` holds max_images, max_bytes, max_cost and price_per_hour where they were given, and `reached` once one
was.
A limit counts what is answered: batches under way end normally, so that a scan goes beyond it by what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from scanfleet.db.tables import Batch, Scan

NAMES = ("max_images", "max_bytes", "max_cost")


def set_limits(connection: sa.Connection, scan_id: str, limits: Mapping[str, float]) -> None:
    """Set what pauses a scan from now on, instead of what did; one that a limit paused goes on. {}: nothing does."""
    reached = connection.execute(sa.select(Scan.limits["reached"].as_string()).where(Scan.id == scan_id)).scalar()
    connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(limits=dict(limits) or None))
    if reached is not None:
        going = sa.update(Scan).where(Scan.id == scan_id, Scan.state == "paused")
        connection.execute(going.values(state="running"))


def limits_of(connection: sa.Connection, scan_id: str) -> dict[str, Any]:
    return connection.execute(sa.select(Scan.limits).where(Scan.id == scan_id)).scalar() or {}


def pause_spent(connection: sa.Connection) -> dict[str, str]:
    """Pause each running scan that has reached a limit. Returns scan -> the limit, in words."""
    limited = sa.select(Scan.id, Scan.limits).where(Scan.state == "running", Scan.limits.is_not(None))
    paused = {}
    for row in connection.execute(limited.order_by(Scan.id)).all():
        reached = _reached(connection, row.id, row.limits)
        if reached is None:
            continue
        values = {"state": "paused", "limits": row.limits | {"reached": reached}}
        moved = sa.update(Scan).where(Scan.id == row.id, Scan.state == "running").values(values)
        if connection.execute(moved).rowcount:
            paused[row.id] = reached
    return paused


def any_limited() -> sa.ColumnElement[bool]:
    """Whether `pause_spent` has something to look at."""
    return sa.exists().where(Scan.state == "running", Scan.limits.is_not(None))


def worker_seconds(connection: sa.Connection, scan_id: str) -> float:
    """Return the seconds of workers that the scan's batches took, each of its last attempt."""
    summed = sa.func.sum(Batch.seconds["under_way"].as_float())
    return float(connection.execute(sa.select(summed).where(Batch.scan_id == scan_id)).scalar() or 0.0)


def cost(seconds: float, price_per_hour: float) -> float:
    return seconds / 3600 * price_per_hour


def _reached(connection: sa.Connection, scan_id: str, limits: Mapping[str, Any]) -> str | None:
    done = Batch.n_verdicts + Batch.n_failures
    share = sa.cast(Batch.n_bytes, sa.Float) * done / Batch.n_images
    sums = sa.select(sa.func.sum(done), sa.func.sum(share)).where(Batch.scan_id == scan_id)
    n_images, n_bytes = connection.execute(sums).one()
    used: dict[str, float] = {"max_images": float(n_images or 0), "max_bytes": float(n_bytes or 0)}
    if "max_cost" in limits:
        used["max_cost"] = cost(worker_seconds(connection, scan_id), limits["price_per_hour"])
    for name in NAMES:
        if name in limits and used[name] >= limits[name]:
            return f"{name} {limits[name]:g}"
    return None
