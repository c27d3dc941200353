"""Tell transient errors of the database from errors of a statement, which are bugs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from scanfleet.config.diagnosis import describe_database_error
from scanfleet.errors import AccessDenied, DatabaseUnavailable, ScanfleetError, SchemaOutdated

MISSING = ("42P01", "42703", "3F000")  # SQLSTATE: no such table, column, schema
NOT_ALLOWED = "42501"  # SQLSTATE: insufficient privilege
_SQLITE_MISSING = ("no such table", "no such column", "has no column named")


@contextmanager
def named_errors() -> Iterator[None]:
    """Turn errors of the database into DatabaseUnavailable, SchemaOutdated or AccessDenied; bugs pass unchanged.

    DatabaseUnavailable: the database is down, starting, shutting down, full, read-only, out of connections or memory;
    it chose this transaction as the victim of a deadlock, cancelled a slow statement, or does not answer.
    """
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise DatabaseUnavailable(f"all connections to the database are busy: {_first_line(error)}") from error
    except sa.exc.DBAPIError as error:
        named = _name(error)
        if named is None:
            raise
        raise named from error


def _name(error: sa.exc.DBAPIError) -> ScanfleetError | None:
    message = _first_line(error.orig)
    if getattr(error.orig, "sqlstate", None) in MISSING or message.startswith(_SQLITE_MISSING):
        return SchemaOutdated(f"the database lacks what this version needs ({message}): run `scanfleet db upgrade`")
    if getattr(error.orig, "sqlstate", None) == NOT_ALLOWED:
        return AccessDenied(f"the database: {message}: `scanfleet db roles` prints what each role is granted")
    if error.connection_invalidated:
        return DatabaseUnavailable(f"the database ended the connection: {message}")
    match error:
        # InternalError: among others a server that became a standby, and one that ended an idle transaction.
        case sa.exc.OperationalError() | sa.exc.InterfaceError() | sa.exc.InternalError():
            return DatabaseUnavailable(describe_database_error(message))
        case sa.exc.IntegrityError() | sa.exc.DataError() | sa.exc.ProgrammingError() | sa.exc.NotSupportedError():
            return None
        case sa.exc.DatabaseError():  # no subclass: a SQLite file that is damaged, or not a database
            return DatabaseUnavailable(f"the database is damaged: {message}")
    return None


def _first_line(error: BaseException | None) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
