"""The registry of adapters. Which of them is in use: `scanfleet.db.training.champions`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import now
from scanfleet.db.tables import Adapter
from scanfleet.errors import UnknownName


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
    training_id: int | None = None  # that produced it; None: it was imported
    gate: dict[str, Any] | None = None  # all figures of the comparison with the champion at that time
    gate_verdict: str | None = None  # promote, hold, reject; None: never judged
    id: int | None = None  # None: not registered yet
    created_at: datetime | None = None  # likewise


COLUMNS = list(Adapter.__table__.c)
MAX_DIGITS = 10  # of an id; more are the begin of a hash


def register_adapter(connection: sa.Connection, adapter: AdapterInfo) -> int:
    """Return the id of these weights, and record the new uri of registered ones."""
    where = (
        Adapter.check_name == adapter.check_name,
        Adapter.base_model == adapter.base_model,
        Adapter.weights_sha256 == adapter.weights_sha256,
    )
    existing = connection.execute(sa.select(Adapter.id).where(*where)).scalar_one_or_none()
    if existing is not None:
        connection.execute(sa.update(Adapter).where(Adapter.id == existing).values(uri=adapter.uri))
        return existing
    values = {
        column.name: getattr(adapter, column.name) for column in COLUMNS if column.name not in ("id", "created_at")
    }
    added = sa.insert(Adapter).values(values | {"created_at": now(connection)}).returning(Adapter.id)
    return connection.execute(added).scalar_one()


def get_adapter(connection: sa.Connection, adapter_id: int) -> AdapterInfo:
    """Return an adapter. Raises UnknownName."""
    row = connection.execute(sa.select(*COLUMNS).where(Adapter.id == adapter_id)).one_or_none()
    if row is None:
        raise UnknownName(f"no adapter {adapter_id}: `scanfleet adapters ls` lists them")
    return AdapterInfo(**row._mapping)


def list_adapters(connection: sa.Connection, check_name: str | None = None) -> list[AdapterInfo]:
    """Return all adapters, or those of one check, the newest first."""
    query = sa.select(*COLUMNS).order_by(Adapter.id.desc())
    if check_name is not None:
        query = query.where(Adapter.check_name == check_name)
    return [AdapterInfo(**row._mapping) for row in connection.execute(query)]


def move_adapter(connection: sa.Connection, adapter_id: int, uri: str) -> None:
    """Record the new uri of an adapter's files."""
    connection.execute(sa.update(Adapter).where(Adapter.id == adapter_id).values(uri=uri))


def adapters_named(connection: sa.Connection, name: str) -> list[int]:
    """Return the adapters with this id, or else those whose weights' SHA-256 begins so. Raises UnknownName.

    The same weights may be registered for several checks; two weights are never meant.
    """
    of_id = Adapter.id == int(name) if name.isascii() and name.isdigit() and len(name) < MAX_DIGITS else sa.false()
    of_weights = Adapter.weights_sha256.startswith(name.lower(), autoescape=True)
    for where in (of_id, of_weights):
        found = connection.execute(sa.select(Adapter.id, Adapter.weights_sha256).where(where)).all()
        if len({row.weights_sha256 for row in found}) > 1:
            raise UnknownName(f"several adapters begin with {name!r}: `scanfleet adapters ls` lists them")
        if found and name:
            return [row.id for row in found]
    raise UnknownName(f"no adapter {name!r}: `scanfleet adapters ls` lists them")
