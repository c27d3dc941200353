"""What alembic would still change in a database: nothing, when migrations and tables agree."""

from __future__ import annotations

import warnings
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from scanfleet.db.tables import Base


def schema_diff(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection, warnings.catch_warnings():
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))
