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
        return [step for step in compare_metadata(context, Base.metadata) if not _is_retired(step)]


def _is_retired(step: Any) -> bool:
    return step[0] == "remove_column" and (step[2], step[3].name) in RETIRED
