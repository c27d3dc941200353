"""The parts of every table: names of constraints, types, enumerations, the columns of a lease."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up INTEGER keys only
Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")  # comparable, and may be indexed


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """timestamptz on PostgreSQL; on SQLite, which has no time zones, UTC text that sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    metadata = sa.MetaData(naming_convention=NAMING)
    type_annotation_map = {
        int: BigId,
        datetime: UtcDateTime(),
        dict[str, Any]: Json,
        list[Any]: Json,
        str: sa.Text(),
    }


class Leased:
    """The columns of a table whose rows workers lease (scanfleet.db.leases)."""

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]  # ready, leased, or one that ends it
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    lease_token: Mapped[int] = mapped_column(default=0)  # grows with every claim; a write must name the current one
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]  # back-off after a transient error
    waiting_for: Mapped[str | None]  # the error, while it waits
    notified_at: Mapped[datetime | None]


def one_of(column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({allowed})", name=column)
