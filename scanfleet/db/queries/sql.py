"""A question in SQL: one statement that reads, in bounded time, of which a bounded number of rows comes back."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from scanfleet.config.settings import Settings
from scanfleet.db.engine import read_only_uri
from scanfleet.errors import BadQuery

MAX_VALUE_BYTES = 50_000_000  # of one text or blob in SQLite: no query fills the memory with a single value
CHECK_STEPS = 1000  # of SQLite's machine, between two looks at the clock
_BEGIN = re.compile(r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/|\()*(\w*)", re.DOTALL)
READS = ("select", "with", "values")

_READS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
_HARMFUL = ("load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "fsdir", "zipfile")  # functions


@dataclass(frozen=True, kw_only=True)
class Table:
    """names: of the columns, each once. more: there are further rows."""

    names: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool


def ask(settings: Settings, query: str, *, seconds: float, limit: int) -> Table:
    """Answer one SELECT from the ledger.

    SQLite is opened for reading, and an authorizer refuses what does more. PostgreSQL answers in a transaction that
    only reads, as the user of `reader_url`, or else as the reader's role where the login may take it.

    Raises BadQuery for wrong SQL, another statement than one SELECT, and a query that is not done after `seconds`;
    AccessDenied for a login that no transaction holds back.
    """
    require_select(query)
    url = make_url(settings.reader or settings.database)
    if url.get_backend_name() == "sqlite":
        return _ask_sqlite(Path(url.database or ""), query, seconds=seconds, limit=limit)
    from scanfleet.db.queries.sql_postgresql import ask_postgresql

    return ask_postgresql(url, query, seconds=seconds, limit=limit)


def require_select(query: str) -> None:
    """Raise BadQuery for a statement that does not begin like one that reads: an early answer, not the protection."""
    found = _BEGIN.match(query)
    word = found[1].lower() if found else ""
    if word not in READS:
        raise BadQuery(
            f"SQL: {word or 'an empty statement'} is refused: one SELECT is answered (or WITH ... SELECT, VALUES)"
        )


def too_long(seconds: float) -> BadQuery:
    return BadQuery(f"SQL: stopped after {seconds:g} s: --timeout allows more")


def made_unique(names: list[str]) -> tuple[str, ...]:
    """
    >>> made_unique(["id", "uri", "id"])
    ('id', 'uri', 'id_2')
    """
    found: list[str] = []
    for name in names:
        n, unique = 1, name
        while unique in found:
            n, unique = n + 1, f"{name}_{n + 1}"
        found.append(unique)
    return tuple(found)


def _ask_sqlite(file: Path, query: str, *, seconds: float, limit: int) -> Table:
    with _opened(file) as connection:
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, CHECK_STEPS)
        try:
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description or ()]
            rows = cursor.fetchmany(limit + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
            if time.monotonic() > deadline:
                raise too_long(seconds) from None
            raise BadQuery(f"SQL: {error}") from None
    return Table(names=made_unique(names), rows=rows[:limit], more=len(rows) > limit)


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file so that SQL can do nothing but read this database."""
    try:
        connection = sqlite3.connect(read_only_uri(file), uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise BadQuery(f"SQL: cannot open {file}: {error}") from None
    with closing(connection):
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")  # SQLite declares them at first use
        connection.set_authorizer(_authorize)
        yield connection


def _authorize(action: int, _: str | None, second: str | None, *__: str | None) -> int:
    allowed = action in _READS or (action == sqlite3.SQLITE_FUNCTION and second not in _HARMFUL)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
