"""What a view is: its columns, each with its SQL and its meaning, and the rows that it selects.

The SQL is that of both databases, but for two forms: `$v.frames.n_scored` is a number in a JSON column, and
`$in(c.body.flags, l.label)` is true where a list of texts in a JSON column has a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"\$(\w+\.\w+)\.(\w+)")
_IN = re.compile(r"\$in\((\w+\.\w+)\.(\w+), ([\w.]+)\)")


@dataclass(frozen=True, kw_only=True)
class Column:
    """sql: its value. about: its meaning, for docs/database.md and the comment in PostgreSQL."""

    name: str
    sql: str
    about: str


@dataclass(frozen=True, kw_only=True)
class View:
    """about: what one row is. rows: the SQL behind the columns, from FROM on."""

    name: str
    about: str
    columns: tuple[Column, ...]
    rows: str

    @property
    def sql(self) -> str:
        """The statement that creates it, for `for_dialect`."""
        selected = ",\n  ".join(f"{column.sql} AS {quoted(column.name)}" for column in self.columns)
        return f"CREATE VIEW {self.name} AS\nSELECT\n  {selected}\n{self.rows}"


def columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    """Return columns from their name, SQL and meaning."""
    return tuple(Column(name=name, sql=sql, about=about) for name, sql, about in rows)


def quoted(name: str) -> str:
    """Return the name of a column, in quotes where SQL has the word for itself."""
    return f'"{name}"' if name == "check" else name


def for_dialect(sql: str, dialect: str) -> str:
    """Return the SQL for "postgresql" or "sqlite"."""
    if dialect == "postgresql":
        sql = _IN.sub(r"jsonb_exists(\1 -> '\2', \3)", sql)
        return _NUMBER.sub(r"CAST(\1 ->> '\2' AS double precision)", sql)
    sql = _IN.sub(r"EXISTS (SELECT 1 FROM json_each(\1, '$.\2') WHERE value = \3)", sql)
    return _NUMBER.sub(r"json_extract(\1, '$.\2')", sql)


def comments(views: Sequence[View]) -> Iterator[str]:
    """Yield the statements that write the meaning of views and columns into PostgreSQL."""
    for view in views:
        yield f"COMMENT ON VIEW {view.name} IS {_text(view.about)}"
        for column in view.columns:
            yield f"COMMENT ON COLUMN {view.name}.{quoted(column.name)} IS {_text(column.about)}"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
