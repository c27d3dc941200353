"""Connections and transactions. Transactions are short: nothing waits for a model or a bucket inside one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from scanfleet.config.settings import Settings
from scanfleet.db import clock
from scanfleet.db.clock import Moment
from scanfleet.db.errors import named_errors
from scanfleet.errors import BadSettings

OTHERS = 0o077  # bits of a mode that admit others than the owner
SQLITE_BUSY_SECONDS = 20.0  # for the one write lock; below the default lease, as all timeouts


def connect(settings: Settings, *, only_reads: bool = False) -> sa.Engine:
    """Return an engine on the ledger; it connects at the first use. One engine per process.

    only_reads: a SQLite file that this process may not write will do.
    """
    url = make_url(settings.database)
    if only_reads and url.get_backend_name() == "sqlite" and _is_foreign(Path(url.database or "")):
        return _reader(Path(url.database or ""))
    if url.get_backend_name() != "sqlite":
        from scanfleet.db import postgresql  # imports psycopg, which the embedded ledger does not need

        return postgresql.make_engine(url)
    folder = settings.make_folder()
    if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        _require_place(Path(url.database), setting="database_url" if settings.database_url else "data_dir")
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": SQLITE_BUSY_SECONDS})
    if settings.database_url is None and not folder.stat().st_mode & OTHERS:
        sa.event.listen(engine, "do_connect", partial(_make_private, folder / "scanfleet.db"))
    sa.event.listen(engine, "connect", _sqlite_connect)
    sa.event.listen(engine, "begin", _sqlite_begin)
    return engine


def _is_foreign(file: Path) -> bool:
    """True for a ledger that is there, and that this process may not write."""
    return os.path.isfile(file) and not all(_may(place, os.R_OK | os.W_OK) for place in (file.absolute().parent, file))


def _may(place: Path, mode: int) -> bool:
    return os.access(place, mode, effective_ids=os.access in os.supports_effective_ids)


def _reader(file: Path) -> sa.Engine:
    import sqlite3

    def opened() -> sqlite3.Connection:
        place = read_only_uri(file)
        return sqlite3.connect(place, uri=True, timeout=SQLITE_BUSY_SECONDS, isolation_level=None)

    engine = sa.create_engine("sqlite://", creator=opened, poolclass=sa.NullPool, hide_parameters=True)
    sa.event.listen(engine, "begin", _sqlite_begin)
    return engine


def _require_place(file: Path, *, setting: str) -> None:
    """Check the place of a SQLite file, whose own error names no cause. Raises BadSettings: waiting does not help."""
    folder = file.absolute().parent
    if not os.path.isdir(folder):
        raise BadSettings(f"{setting}: there is no folder {folder}: create it, or set another place")
    if os.path.isdir(file):
        raise BadSettings(f"{setting}: {file} is a folder: name a file")
    for place in (folder, file) if os.path.exists(file) else (folder,):
        if not _may(place, os.R_OK | os.W_OK):
            raise BadSettings(f"{setting}: no permission to write {place}: change that, or set another place")


def read_only_uri(file: Path) -> str:
    """Return the URI that opens a ledger for reading.

    SQLite makes files beside it even to read, unless it is told that nobody writes. That is so where the folder is not
    ours to write in, and no log (-wal) lies there that a writer keeps.
    """
    uri = f"{file.absolute().as_uri()}?mode=ro"
    quiet = not _may(file.absolute().parent, os.W_OK) and not os.path.exists(f"{file}-wal")
    return f"{uri}&immutable=1" if quiet else uri


_creating = threading.Lock()  # else SQLite might open the file before another thread has closed it here


def _make_private(file: Path, *_: Any) -> None:
    """Create the embedded ledger for its owner alone. SQLite gives the files beside it the same mode.

    A file that exists is never opened here: closing any descriptor of it would drop the locks that SQLite holds for
    other threads of this process, and two writers would damage it (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    with _creating, contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _sqlite_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # _sqlite_begin sends BEGIN
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get("read_only", False)
    # IMMEDIATE takes the write lock at once: two claims cannot both read first and then collide.
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def transaction(engine: sa.Engine, *, long: bool = False) -> Iterator[sa.Connection]:
    """Run one write transaction: commit at the end, roll back on any error.

    long: its statements may take minutes, because they touch a whole archive; others end after seconds.

    Raises DatabaseUnavailable for an error of the database, not of the statement; SchemaOutdated when a table or
    column is missing.
    """
    with named_errors(), engine.begin() as connection, _long_timeouts(connection, long=long):
        yield connection


@contextmanager
def reading(engine: sa.Engine, *, long: bool = False) -> Iterator[sa.Connection]:
    """Run one read transaction: a consistent view that blocks no writer. `long` and errors as in `transaction`."""
    options = engine.execution_options(read_only=True)
    with named_errors(), options.begin() as connection, _long_timeouts(connection, long=long):
        yield connection


@contextmanager
def _long_timeouts(connection: sa.Connection, *, long: bool) -> Iterator[None]:
    if not long or connection.dialect.name == "sqlite":
        yield
        return
    from scanfleet.db.postgresql import LONG, use_timeouts

    with use_timeouts(connection, LONG):
        yield


def moment(connection: sa.Connection) -> Moment:
    """Return the time of the database as a part of a statement, which then needs none of its own to ask for it."""
    if connection.dialect.name == "postgresql":
        return clock.moment("postgresql")
    return datetime.now(UTC)


def now(connection: sa.Connection) -> datetime:
    """Return the time of the database: the clocks of workers may differ."""
    if connection.dialect.name == "postgresql":
        return connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return datetime.now(UTC)
