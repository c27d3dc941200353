"""The registry of adapters, and the pointer to the one in use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from scanfleet.store.engine import now
from scanfleet.store.tables import Adapter, Champion


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """An adapter as registered. `uri`: the folder or s3:// prefix that holds its files."""

    check_name: str
    check_hash: str
    base_model: str
    base_revision: str
    uri: str
    weights_sha256: str
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    calibrator: dict[str, Any] | None = None
    thresholds: dict[str, Any] | None = None
    canary: dict[str, Any] | None = None
    id: int | None = None  # None: not registered yet


_COLUMNS = [column for column in Adapter.__table__.c if column.name != "created_at"]


def register_adapter(connection: sa.Connection, adapter: AdapterInfo) -> int:
    """The id of these weights; a known one takes over the place where its files are now."""
    where = (
        Adapter.check_name == adapter.check_name,
        Adapter.base_model == adapter.base_model,
        Adapter.weights_sha256 == adapter.weights_sha256,
    )
    known = connection.execute(sa.select(Adapter.id).where(*where)).scalar_one_or_none()
    if known is not None:
        connection.execute(sa.update(Adapter).where(Adapter.id == known).values(uri=adapter.uri))
        return known
    values = {column.name: getattr(adapter, column.name) for column in _COLUMNS if column.name != "id"}
    added = sa.insert(Adapter).values(values | {"created_at": now(connection)}).returning(Adapter.id)
    return connection.execute(added).scalar_one()


def champion(connection: sa.Connection, check_name: str, base_model: str) -> AdapterInfo | None:
    """The adapter in use for a check and base model; None: the base model answers alone."""
    query = (
        sa.select(*_COLUMNS)
        .join(Champion, Champion.adapter_id == Adapter.id)
        .where(Champion.check_name == check_name, Champion.base_model == base_model)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else AdapterInfo(**row._mapping)


def promote(connection: sa.Connection, adapter_id: int) -> None:
    """Point the check and base model of an adapter to it: one statement, so a batch sees the old or the new one."""
    row = connection.execute(sa.select(Adapter.check_name, Adapter.base_model).where(Adapter.id == adapter_id)).one()
    key = {"check_name": row.check_name, "base_model": row.base_model}
    value = {"adapter_id": adapter_id, "since": now(connection)}
    moved = connection.execute(
        sa.update(Champion).where(*(getattr(Champion, name) == held for name, held in key.items())).values(value)
    )
    if moved.rowcount == 0:
        connection.execute(sa.insert(Champion).values(key | value))
