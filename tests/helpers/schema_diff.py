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
        warnings.filterwarnings("ignore", "autogenerate skipping metadata-specified expression-based index")
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = [step for step in compare_metadata(context, Base.metadata) if not _is_retired(step)]
        return [step for step in found if not _is_of_the_other(step, engine.dialect.name)]


ONLY_OF = {
    "postgresql": {
        "ix_batches_scan_id_id",
        "ix_verdicts_scorer_id_margin",
        "ix_verdicts_unclear",
    },
    "sqlite": {"ix_verdicts_scan_id", *(f"fk_verdicts_{name}" for name in ("image_id", "scan_id", "scorer_id"))},
}


def _is_of_the_other(step: Any, dialect: str) -> bool:
    """Whether an index or a key is missing that only the other database has: alembic does not read `ddl_if`."""
    return step[0] in ("add_index", "add_fk") and any(
        step[1].name in names for of, names in ONLY_OF.items() if of != dialect
    )


def _is_retired(step: Any) -> bool:
    return step[0] == "remove_column" and (step[2], step[3].name) in RETIRED
