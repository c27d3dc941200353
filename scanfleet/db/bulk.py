"""Many rows in one statement.

On PostgreSQL each column travels as one array, and a column whose values are all alike as one value: nothing is
prepared in the server (poolers), and a statement with a value for each row and column would take longer to bind and to
parse than to execute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from scanfleet.db.base import Base

Columns = Mapping[str, Sequence[Any]]  # name -> values, one for each row
SQLITE_TIME = "%Y-%m-%d %H:%M:%S.%f"  # as SQLAlchemy writes it


def insert_columns(connection: sa.Connection, table: type[Base], columns: Columns) -> None:
    """Insert rows. The first column is one whose values differ."""
    names = ", ".join(columns)
    if connection.dialect.name == "postgresql":
        select, values = unnested(table, columns)
        statement = f"INSERT INTO {table.__tablename__} ({names}) {select}"
        connection.exec_driver_sql(statement, tuple(values))
        return
    rows = list(zip(*(map(sqlite_value, values) for values in columns.values()), strict=True))
    places = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table.__tablename__} ({names}) VALUES ({places})"  # noqa: S608
    connection.exec_driver_sql(statement, rows)


def unnested(table: type[Base], columns: Columns, kinds: Mapping[str, str] | None = None) -> tuple[str, list[Any]]:
    """Return a SELECT of rows, and its parameters, for PostgreSQL. kinds: of columns that the table does not have."""
    of_table = {**kinds_of(table), **(kinds or {})}
    selected: list[str] = []
    names: list[tuple[str, str]] = []
    once: list[Any] = []
    arrays: list[Any] = []
    for name, values in columns.items():
        kind = of_table[name]
        first = values[0]
        if names and (first is values[-1] or first == values[-1]) and values.count(first) == len(values):
            if first is None:
                selected.append(f"NULL::{kind} AS {name}")
            else:
                selected.append(f"%s::{kind} AS {name}")
                once.append(_plain(first))
            continue
        selected.append(f"_{name} AS {name}")
        names.append((name, kind))
        arrays.append(array_literal(values))
    of_arrays = ", ".join(f"%s::{kind}[]" for _, kind in names)
    aliases = ", ".join(f"_{name}" for name, _ in names)
    return f"SELECT {', '.join(selected)} FROM unnest({of_arrays}) AS rows ({aliases})", once + arrays  # noqa: S608


@cache
def kinds_of(table: type[Base]) -> dict[str, str]:
    """Return the types of a table's columns as PostgreSQL names them."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return {column.name: column.type.compile(dialect=dialect) for column in table.__table__.columns}


def array_literal(values: Sequence[Any]) -> str:
    """Return the text of an array, whose elements PostgreSQL reads by its type. Dictionaries and lists become JSON.

    psycopg does the same at a multiple of the time: it chooses a dumper for each element.
    """
    kinds = set(map(type, values))
    if kinds == {str}:
        text = '","'.join(values)
        if "\\" not in text and text.count('"') == 2 * (len(values) - 1):
            return f'{{"{text}"}}'
    elif kinds <= {int, float}:
        return "{" + ",".join(map(repr, values)) + "}"
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    text = _plain(value)
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _plain(value: Any) -> str:
    """Return a value as the text that PostgreSQL reads by its type."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple):
        return json.dumps(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def sqlite_value(value: Any) -> Any:
    """Return a value as the driver of SQLite takes it."""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime(SQLITE_TIME)
    return value
