"""Differences that alembic finds between a database and the tables: none, when the migrations agree."""

from __future__ import annotations

import warnings
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from scanfleet.db.tables import Base

# Columns that only the release before uses; the next one drops them.
RETIRED = {("batches", "rung_at"), ("trainings", "rung_at")}


def schema_diff(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection, warnings.catch_warnings():
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = [step for step in compare_metadata(context, Base.metadata) if not _is_retired(step)]
        return [step for step in found if engine.dialect.name == "sqlite" or not _is_of_sqlite(step)]


def _is_of_sqlite(step: Any) -> bool:
    """Whether a foreign key is missing that only SQLite has: alembic does not read `ddl_if`."""
    return step[0] == "add_fk" and step[1].name in {
        f"fk_verdicts_{name}" for name in ("image_id", "scan_id", "scorer_id")
    }


def _is_retired(step: Any) -> bool:
    return step[0] == "remove_column" and (step[2], step[3].name) in RETIRED
