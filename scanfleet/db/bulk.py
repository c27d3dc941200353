"""Many rows in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from scanfleet.db.base import Base


def insert_rows(connection: sa.Connection, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that have the same keys.

    On PostgreSQL each column travels as one array: nothing is prepared in the server (poolers), and a statement with a
    value for each row and column would take it longer to parse than to execute.
    """
    if not rows:
        return
    if connection.dialect.name != "postgresql":
        connection.execute(sa.insert(table), [dict(row) for row in rows])
        return
    names, of_table = list(rows[0]), table.__table__.c
    arrays = []
    for name in names:
        kind = postgresql.ARRAY(of_table[name].type)
        arrays.append(sa.cast(sa.bindparam(None, [row[name] for row in rows], type_=kind), kind))
    given = (sa.column(name, of_table[name].type) for name in names)
    columns = sa.func.unnest(*arrays).table_valued(*given).render_derived(name="new")
    connection.execute(sa.insert(table).from_select(names, sa.select(*(columns.c[name] for name in names))))
