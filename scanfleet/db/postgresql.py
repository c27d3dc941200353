"""Timeouts of PostgreSQL: no thread hangs on a server, a network or a lock.

A connection can fall silent without an error: a firewall forgets it, a server is frozen, a switch dies. Each layer
has its own timeout, and the last one is the client's clock:

    server     lock_timeout < statement_timeout   a statement that cannot continue ends with an error
    kernel     keepalives, tcp_user_timeout       a peer that does not acknowledge ends the connection
    client     Timeouts.answer_seconds            a server that acknowledges but does not answer: the client closes

Each is below the default lease (60 s), so that a worker can try again on a new connection while it still holds the
batch.

No session has state, because a pooler in transaction mode (pgbouncer, RDS Proxy, Supabase, Neon) gives each transaction
another session, and hands that on to other clients. So settings are those of a transaction, sent together with its
BEGIN, nothing is prepared in the server, and advisory locks belong to transactions.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

READ_ONLY = "25006"  # SQLSTATE: the server became a standby
IDLE_IN_TRANSACTION_SECONDS = 10.0  # far longer than any transaction here takes
MAX_CONNECTIONS = 4  # of a process, whatever threads it has: transactions are short, so that threads take turns
POOL_SECONDS = 10.0  # to wait for a free one

# Values in the database URL take precedence.
CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 5,  # seconds, for each address of the host
    # An idle connection whose peer is gone is detected after 10 + 3 x 5 seconds.
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds that sent data may stay unacknowledged
}


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds for one statement."""

    lock_seconds: float  # to get a lock: other transactions last milliseconds
    statement_seconds: float  # in the server, locks included
    answer_seconds: float  # until the whole answer has arrived

    @property
    def settings(self) -> dict[str, int]:
        """The settings of the server, in milliseconds."""
        return {
            "lock_timeout": int(self.lock_seconds * 1000),
            "statement_timeout": int(self.statement_seconds * 1000),
        }


SHORT = Timeouts(lock_seconds=8.0, statement_seconds=12.0, answer_seconds=15.0)  # every other transaction
LONG = Timeouts(lock_seconds=60.0, statement_seconds=1800.0, answer_seconds=1830.0)  # statements over a whole archive


class ServerSilentError(psycopg.OperationalError):
    """The server accepted a statement and did not answer in time."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that waits at most `answer_seconds` for an answer, and is closed then."""

    answer_seconds = SHORT.answer_seconds

    def wait(self, gen: Generator[Any, Any, Any], *how: Any, **more: Any) -> Any:
        deadline = time.monotonic() + self.answer_seconds
        try:
            return super().wait(_until(gen, deadline), *how, **more)
        except ServerSilentError:
            self.pgconn.finish()  # closed: SQLAlchemy drops it, and the others of the pool with it
            raise ServerSilentError(f"no answer from the server in {self.answer_seconds:.0f} s") from None


def _until(gen: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
    """Run a generator until a deadline. psycopg resumes it at least every 0.1 s, ready or not."""
    try:
        waits_for = next(gen)
        while True:
            ready = yield waits_for
            if time.monotonic() >= deadline:
                raise ServerSilentError
            waits_for = gen.send(ready)
    except StopIteration as end:
        return end.value


def make_engine(url: sa.URL) -> sa.Engine:
    """Return an engine on PostgreSQL; it connects at the first use."""
    # pre_ping: after a restart of the server the pool holds dead connections; detect them before the work.
    engine = sa.create_engine(
        url,
        hide_parameters=True,  # error messages end up in logs: without the values of a statement
        pool_pre_ping=True,
        pool_size=MAX_CONNECTIONS,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        connect_args={name: value for name, value in CONNECT_ARGS.items() if name not in url.query},
    )
    # Many rows become one statement: psycopg would send one for each, which costs more where none is prepared.
    engine.dialect.use_insertmanyvalues_wo_returning = True
    # The ping is the BEGIN that follows it anyway: it saves each transaction a round trip and a statement.
    vars(engine.dialect)["do_ping"] = _ping
    sa.event.listen(engine, "do_connect", _connect)
    sa.event.listen(engine, "begin", _begin)
    sa.event.listen(engine, "handle_error", _leave_a_standby)
    return engine


def _connect(_: Any, __: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> BoundedConnection:
    # autocommit: _begin sends BEGIN.
    return BoundedConnection.connect(*arguments, **options | {"autocommit": True, "prepare_threshold": None})


def _opening() -> str:
    """Begin a transaction and bound its statements, in one round trip."""
    # A process that is frozen inside a transaction keeps its locks: the server ends it, so that no other waits for it.
    idle = {"idle_in_transaction_session_timeout": int(IDLE_IN_TRANSACTION_SECONDS * 1000)}
    bounds = (f"set_config('{name}', '{value}', true)" for name, value in (SHORT.settings | idle).items())
    return f"BEGIN; SELECT {', '.join(bounds)}"


def _ping(connection: BoundedConnection) -> bool:
    """Begin the transaction on a connection from the pool. An error says that it is dead: SQLAlchemy opens another."""
    connection.execute(_opening().encode())
    return True


def _begin(connection: sa.Connection) -> None:
    """Begin a transaction where `_ping` has not: on a new connection, or for a second one on the same."""
    driver: Any = connection.connection.driver_connection
    if driver.info.transaction_status is TransactionStatus.IDLE:
        connection.exec_driver_sql(_opening())


def _leave_a_standby(context: sa.engine.ExceptionContext) -> None:
    """After a failover, drop connections to a server that is read-only now: new ones find the writer."""
    if sqlstate(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


@contextmanager
def use_timeouts(connection: sa.Connection, timeouts: Timeouts) -> Iterator[None]:
    """Use other timeouts than SHORT until the transaction ends."""
    raw: Any = connection.connection.dbapi_connection
    for name, milliseconds in timeouts.settings.items():
        connection.exec_driver_sql(f"SET LOCAL {name} = {milliseconds}")
    raw.answer_seconds = timeouts.answer_seconds
    try:
        yield
    finally:
        del raw.answer_seconds


def sqlstate(error: BaseException | None) -> str | None:
    """Return PostgreSQL's code of an error; None: it has none, or is not of PostgreSQL."""
    return error.sqlstate if isinstance(error, psycopg.Error) else None
