"""Connections and transactions. A transaction is short by rule: nothing waits for a model or a bucket inside one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from scanfleet.errors import DatabaseUnavailable, SchemaOutdated
from scanfleet.settings import Settings

SQLITE_BUSY_SECONDS = 30.0
IDLE_IN_TRANSACTION_SECONDS = 10.0  # far longer than any of our transactions


def connect(settings: Settings) -> sa.Engine:
    """An engine on the ledger; it connects at the first use. One engine a process."""
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        settings.make_folder()
        engine = sa.create_engine(url, connect_args={"timeout": SQLITE_BUSY_SECONDS})
        sa.event.listen(engine, "connect", _sqlite_connect)
        sa.event.listen(engine, "begin", _sqlite_begin)
        return engine
    # pre_ping: after a restart of the server the pool holds dead connections; find out before the work.
    engine = sa.create_engine(url, pool_pre_ping=True, pool_size=8, connect_args={"connect_timeout": 5})
    sa.event.listen(engine, "connect", _postgresql_connect)
    return engine


def _postgresql_connect(connection: Any, _: Any) -> None:
    # A process that is frozen inside a transaction keeps its locks: the server ends it, so that nobody waits for it.
    connection.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE_IN_TRANSACTION_SECONDS * 1000)}")
    connection.commit()


def _sqlite_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get("read_only", False)
    # IMMEDIATE takes the write lock at once: two claims cannot both read first and then collide.
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One write transaction: commits at the end, rolls back on any error.

    Raises DatabaseUnavailable when the database, and not the statement, is at fault; SchemaOutdated when a table or
    column is missing.
    """
    with _named_errors(), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One read transaction: a steady view that holds up no writer. Errors as in `transaction`."""
    with _named_errors(), engine.execution_options(read_only=True).begin() as connection:
        yield connection


def now(connection: sa.Connection) -> datetime:
    """The database's clock: the workers' own clocks may disagree with each other."""
    if connection.dialect.name == "postgresql":
        return connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return datetime.now(UTC)


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except (sa.exc.ProgrammingError, sa.exc.OperationalError) as error:
        words = str(error.orig).splitlines()[0]
        if "no such table" in words or "no such column" in words or "does not exist" in words:
            missing_database = "database" in words and "no such" not in words
            if not missing_database:
                raise SchemaOutdated(
                    f"the database lacks what this version needs ({words}): run `scanfleet db upgrade`"
                ) from None
        if isinstance(error, sa.exc.ProgrammingError):
            raise
        raise DatabaseUnavailable(f"the database cannot be used right now: {words}") from error
    except sa.exc.InternalError as error:
        if not error.connection_invalidated:
            raise
        # The server ended the session, as it does with one that was frozen inside a transaction.
        raise DatabaseUnavailable(f"the database ended the connection: {str(error.orig).splitlines()[0]}") from error
    except (sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        raise DatabaseUnavailable(f"the database cannot be reached: {str(error).splitlines()[0]}") from error
