"""Questions in SQL to PostgreSQL.

A cursor takes one SELECT alone: no COPY, no second statement, nothing that writes inside a WITH. The transaction only
reads. What functions may do is left to the rights of the user, so that one who may do everything is refused.
"""

from __future__ import annotations

from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql

from scanfleet.db.errors import NOT_ALLOWED, named_errors
from scanfleet.db.postgresql import SHORT, BoundedConnection, make_engine, sqlstate
from scanfleet.db.queries.sql import Table, made_unique, too_long
from scanfleet.db.roles import RoleNames
from scanfleet.db.schema import started
from scanfleet.errors import AccessDenied, BadQuery, DatabaseUnavailable

GRACE_SECONDS = 5.0  # beyond the time of the query, until its answer has arrived
CANCELLED = "57014"  # SQLSTATE: statement_timeout
READER = RoleNames().reader
_MIGHTY = ("pg_read_server_files", "pg_write_server_files", "pg_execute_server_program")
_RIGHTS = sql.SQL(
    "SELECT session_user, (SELECT rolsuper FROM pg_roles WHERE rolname = session_user)"
    " OR EXISTS (SELECT FROM pg_roles WHERE rolname = ANY(%s) AND pg_has_role(session_user, oid, 'MEMBER')),"
    " EXISTS (SELECT FROM pg_roles WHERE rolname = %s AND pg_has_role(session_user, oid, 'MEMBER'))"
)


def ask_postgresql(url: sa.URL, query: str, *, seconds: float, limit: int) -> Table:
    """See `scanfleet.db.queries.sql.ask`."""
    with started(make_engine(url)) as engine, named_errors(), engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        try:
            return _ask(driver, query, seconds=seconds, limit=limit)
        except psycopg.Error as error:
            raise _named(error, seconds) from None
        except (ValueError, OverflowError) as error:
            raise BadQuery(f"SQL: {error}") from None
        finally:
            connection.invalidate()  # whatever the query set in this session ends with it


def _ask(driver: BoundedConnection, query: str, *, seconds: float, limit: int) -> Table:
    driver.answer_seconds = seconds + GRACE_SECONDS
    bounds = {"statement_timeout": seconds, "lock_timeout": SHORT.lock_seconds}
    settings = "; ".join(f"SET LOCAL {name} = {max(int(value * 1000), 1)}" for name, value in bounds.items())
    driver.rollback()  # the pool has begun a transaction that may write
    driver.execute(sql.SQL(f"BEGIN READ ONLY; {settings}"))
    _become_reader(driver)
    with driver.cursor(name="question") as cursor:
        cursor.execute(query.encode())
        rows = cursor.fetchmany(limit + 1)
        names = [column.name for column in cursor.description or ()]
    return Table(names=made_unique(names), rows=rows[:limit], more=len(rows) > limit)


def _become_reader(driver: BoundedConnection) -> None:
    """Take the reader's role if the login has it. Raises AccessDenied for a login that could do anything."""
    found = driver.execute(_RIGHTS, (list(_MIGHTY), READER)).fetchone()
    user, mighty, is_reader = found or ("", True, False)
    if mighty:
        raise AccessDenied(
            f"SQL: nothing holds the login {user} back, which may read and write files of the server: set reader_url "
            f"to a login of the role {READER} (`scanfleet db roles`)"
        )
    if is_reader:
        driver.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(READER)))


def _named(error: psycopg.Error, seconds: float) -> Exception:
    code = sqlstate(error)
    said = " ".join(filter(None, (error.diag.message_primary or str(error), error.diag.message_hint)))
    if code == CANCELLED:
        return too_long(seconds)
    if code == NOT_ALLOWED:
        return AccessDenied(f"SQL: {said}")
    if code is None and isinstance(error, psycopg.OperationalError):
        return DatabaseUnavailable(f"the database: {said}")
    return BadQuery(f"SQL: {said}")
