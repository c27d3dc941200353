"""Refusals of adapters by workers, with reasons. Rows are added, never changed: the newest of a worker counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from scanfleet.db.engine import now
from scanfleet.db.tables import Adapter, Refusal

TAKEN_BACK = ""  # as a reason: the adapter passes on that worker now


@dataclass(frozen=True, kw_only=True)
class RefusalInfo:
    adapter_id: int
    check_name: str
    worker: str
    why: str
    at: datetime


def record_refusal(connection: sa.Connection, adapter_id: int, *, worker: str, why: str) -> None:
    """Record once that a worker does not use an adapter."""
    if _newest(connection, adapter_id, worker) in (None, TAKEN_BACK):
        _add(connection, adapter_id, worker, why)


def take_back(connection: sa.Connection, adapter_id: int, *, worker: str) -> None:
    """Record that a worker uses an adapter that it refused before."""
    if _newest(connection, adapter_id, worker) not in (None, TAKEN_BACK):
        _add(connection, adapter_id, worker, TAKEN_BACK)


def open_refusals(connection: sa.Connection, adapter_id: int | None = None) -> list[RefusalInfo]:
    """Return the refusals that still hold, the oldest first; also those of workers that ended since."""
    newest = sa.select(sa.func.max(Refusal.id)).group_by(Refusal.adapter_id, Refusal.worker)
    query = (
        sa.select(Refusal.adapter_id, Adapter.check_name, Refusal.worker, Refusal.why, Refusal.at)
        .join(Adapter, Adapter.id == Refusal.adapter_id)
        .where(Refusal.id.in_(newest), Refusal.why != TAKEN_BACK)
        .order_by(Refusal.id)
    )
    if adapter_id is not None:
        query = query.where(Refusal.adapter_id == adapter_id)
    return [RefusalInfo(**row._mapping) for row in connection.execute(query)]


def _newest(connection: sa.Connection, adapter_id: int, worker: str) -> str | None:
    query = sa.select(Refusal.why).where(Refusal.adapter_id == adapter_id, Refusal.worker == worker)
    return connection.execute(query.order_by(Refusal.id.desc()).limit(1)).scalar_one_or_none()


def _add(connection: sa.Connection, adapter_id: int, worker: str, why: str) -> None:
    row = {"adapter_id": adapter_id, "worker": worker, "why": why, "at": now(connection)}
    connection.execute(sa.insert(Refusal).values(row))
