"""Indexes and keys that both databases can have, or one of them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def partial(condition: str) -> dict[str, Any]:
    """Return the options of a partial index, for both databases."""
    return {f"{dialect}_where": sa.text(condition) for dialect in ("postgresql", "sqlite")}


def pointers(table: str, column: str) -> sa.Index:
    """The rows that point to a row, found when it is deleted."""
    return sa.Index(f"ix_{table}_{column}", column, **partial(f"{column} IS NOT NULL"))


def of_sqlite(column: str, table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{table}.id"]).ddl_if(dialect="sqlite")
