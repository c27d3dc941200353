"""Roles and rights in PostgreSQL: four roles, each with the least that its side of the fleet needs.

Rights are granted by table, so that a new column changes nothing, except where rows must not change. A new table must
be entered here; a test checks that.
Every role reads everything, the views included, but for PRIVATE: the rest of the ledger holds no secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.dialects import postgresql

from scanfleet.db.tables import Base
from scanfleet.db.views import VIEWS

VERSION_TABLE = "alembic_version"  # every process reads it at its start

# Producers cancel, retry and reconcile; a reconciler also quarantines, which writes a failure.
PRODUCER = {
    "checks": "INSERT, UPDATE",
    "scans": "INSERT, UPDATE",
    "batches": "INSERT, UPDATE",
    "images": "INSERT, UPDATE",
    "failures": "INSERT, DELETE",
    "labels": "INSERT",  # added, never changed
    "labelled_images": "INSERT, UPDATE (uri, root, etag)",  # a split never changes
    "trainings": "INSERT, UPDATE",
    "adapters": "UPDATE (uri)",  # its files were moved
    "champions": "INSERT, UPDATE",  # a person promotes and rolls back
    "promotions": "INSERT",
    "calibrations": "INSERT",  # fitted by `scanfleet tune`
    "experiment_cells": "INSERT, DELETE",  # a cell that was left out is tried again
    "webhooks": "INSERT, UPDATE",
    "api_tokens": "INSERT, UPDATE (revoked_at)",  # `scanfleet serve` has this role
    "web_sessions": "INSERT, DELETE",
    "access_audit": "INSERT",  # added, never changed
    "review_leases": "INSERT, UPDATE, DELETE",
    "workers": "UPDATE (drain_at)",  # `worker drain`
}
# Workers settle what producers create; they create no scan, batch or image, and delete nothing.
WORKER = {
    "checks": "INSERT",  # a built-in one that is trained before its first scan
    "scans": "UPDATE",
    "batches": "UPDATE",
    "images": "UPDATE",
    "failures": "INSERT",
    "scorers": "INSERT, UPDATE (shift)",  # its configuration never changes
    "verdicts": "INSERT, UPDATE",
    "workers": "INSERT, UPDATE",
    "adapters": "INSERT, UPDATE",  # those that ship with the built-in model
    "champions": "INSERT, UPDATE",
    "promotions": "INSERT",
    "refusals": "INSERT",
    "trainings": "INSERT, UPDATE",
    "webhooks": "UPDATE",
}
# Keepers delete what was kept long enough, or must be forgotten. They add nothing but the names that stay forgotten.
KEEPER = {
    "scans": "UPDATE (state, finished_at, sums), DELETE",
    "batches": "UPDATE, DELETE",
    "images": "UPDATE (verdict_id, replaced), DELETE",
    "failures": "DELETE",
    "verdicts": "UPDATE (image_id, scan_id, reused_from, computed_at), DELETE",
    "forgotten": "INSERT, DELETE",
    "webhooks": "DELETE",
    "labels": "UPDATE (uri), DELETE",
    "labelled_images": "UPDATE (uri, root, etag), DELETE",
}
READER: Mapping[str, str] = {}
_COUNTED = (  # ids from a sequence
    "checks", "batches", "images", "scorers", "verdicts", "labels", "adapters", "trainings", "promotions", "refusals",
    "calibrations", "webhooks", "api_tokens", "web_sessions", "access_audit", "experiment_cells",
)  # fmt: skip
PRIVATE = {"webhooks": ("url",)}  # columns that only roles see which change the table: they may hold a token


@dataclass(frozen=True, kw_only=True)
class RoleNames:
    producer: str = "scanfleet_producer"
    worker: str = "scanfleet_worker"
    reader: str = "scanfleet_reader"
    keeper: str = "scanfleet_keeper"


def role_statements(names: RoleNames) -> list[str]:
    """Return SQL that creates the four roles, or resets them to the rights here. For the owner of the tables."""
    rights = {names.producer: PRODUCER, names.worker: WORKER, names.reader: READER, names.keeper: KEEPER}
    return [line for role, tables in rights.items() for line in _statements(role, tables)]


def _statements(role: str, tables: Mapping[str, str]) -> list[str]:
    names = (*sorted(Base.metadata.tables), *(view.name for view in VIEWS), VERSION_TABLE)
    every = ", ".join(_quoted(name) for name in names)
    to = _quoted(role)
    sequences = ", ".join(
        _quoted(f"{name}_id_seq") for name, rights in tables.items() if name in _COUNTED and "INSERT" in rights
    )
    return [
        f"DO $$ BEGIN CREATE ROLE {to} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;",
        f"REVOKE ALL ON {every} FROM {to};",
        f"GRANT {_reading(tables)} TO {to};",
        *(f"GRANT SELECT ({_seen(name)}) ON {_quoted(name)} TO {to};" for name in _half_hidden(tables)),
        *(f"GRANT {rights} ON {_quoted(name)} TO {to};" for name, rights in tables.items()),
        *([f"GRANT USAGE ON SEQUENCE {sequences} TO {to};"] if sequences else []),
    ]


def _reading(tables: Mapping[str, str]) -> str:
    whole = [name for name in sorted(Base.metadata.tables) if name not in _half_hidden(tables)]
    views = (view.name for view in VIEWS)
    return f"SELECT ON {', '.join(map(_quoted, (*whole, *views, VERSION_TABLE)))}"


def _half_hidden(tables: Mapping[str, str]) -> list[str]:
    return [name for name in PRIVATE if "UPDATE" not in tables.get(name, "")]


def _seen(table: str) -> str:
    names = (column.name for column in Base.metadata.tables[table].c if column.name not in PRIVATE[table])
    return ", ".join(map(_quoted, names))


def _quoted(name: str) -> str:
    dialect: Any = postgresql.dialect
    return str(dialect().identifier_preparer.quote(name))
