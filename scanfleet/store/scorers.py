"""Scorers: one immutable scoring configuration a row, found again by the hash over its content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from scanfleet.store.engine import now
from scanfleet.store.tables import ScorerRow


@dataclass(frozen=True, kw_only=True)
class ScorerSpec:
    """Everything that can move a margin or a decision."""

    check_id: int
    base_model: str
    base_revision: str
    precision: str
    adapter_id: int | None
    max_pixels: int
    crop: str
    calibrator: dict[str, Any] | None
    thresholds: dict[str, Any] | None

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def scorer_id(connection: sa.Connection, spec: ScorerSpec) -> int:
    """The id of this configuration; adds it when it is new. Two workers may ask at the same moment."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = asdict(spec) | {"key": spec.key, "created_at": now(connection)}
    connection.execute(dialect.insert(ScorerRow).values(row).on_conflict_do_nothing(index_elements=["key"]))
    return connection.execute(sa.select(ScorerRow.id).where(ScorerRow.key == spec.key)).scalar_one()
