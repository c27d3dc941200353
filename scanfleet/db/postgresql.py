"""How long PostgreSQL may keep us waiting: no thread of ours hangs on a server, a network or a lock.

A connection can fall silent without an error: a firewall forgets it, a server is frozen, a switch dies. Each layer
finds what it can, and the last one is our own clock:

    server     lock_timeout < statement_timeout   a statement that cannot go on ends with an error
    kernel     keepalives, tcp_user_timeout       a peer that does not acknowledge ends the connection
    client     Timeouts.answer_seconds            a server that acknowledges and says nothing: we end the connection

Each is below the default lease (60 s), so that a worker can try again on a new connection while the batch is still its
own.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa

READ_ONLY = "25006"  # SQLSTATE: this server became a standby
IDLE_IN_TRANSACTION_SECONDS = 10.0  # far longer than any of our transactions

# A person's own values in the database URL go before these.
CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 5,  # seconds, for each address of the host
    # An idle connection whose peer is gone is found out after 10 + 3 x 5 seconds.
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds that what we sent may stay unacknowledged
}


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds for one statement."""

    lock_seconds: float  # to get a lock: another transaction of ours lasts milliseconds
    statement_seconds: float  # in the server, locks included
    answer_seconds: float  # until the whole answer is here

    @property
    def settings(self) -> dict[str, int]:
        """The server's share, in milliseconds."""
        return {
            "lock_timeout": int(self.lock_seconds * 1000),
            "statement_timeout": int(self.statement_seconds * 1000),
        }


SHORT = Timeouts(lock_seconds=8.0, statement_seconds=12.0, answer_seconds=15.0)  # every transaction, unless it says so
LONG = Timeouts(lock_seconds=60.0, statement_seconds=1800.0, answer_seconds=1830.0)  # what touches a whole archive


class ServerSilentError(psycopg.OperationalError):
    """The server took a statement and gave no answer in time."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that waits no longer than `answer_seconds` for an answer, and is closed then."""

    answer_seconds = SHORT.answer_seconds

    def wait(self, gen: Generator[Any, Any, Any], *how: Any, **more: Any) -> Any:
        deadline = time.monotonic() + self.answer_seconds
        try:
            return super().wait(_until(gen, deadline), *how, **more)
        except ServerSilentError:
            self.pgconn.finish()  # closed: SQLAlchemy drops it, and the others of the pool with it
            raise ServerSilentError(f"no answer from the server in {self.answer_seconds:.0f} s") from None


def _until(gen: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
    """The same generator, ended after the deadline. psycopg resumes it at least every 0.1 s, ready or not."""
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
    """An engine on PostgreSQL; it connects at the first use."""
    # pre_ping: after a restart of the server the pool holds dead connections; find out before the work.
    engine = sa.create_engine(
        url,
        hide_parameters=True,  # an error's words end up in logs: not with what was written or asked for
        pool_pre_ping=True,
        pool_size=8,
        pool_timeout=SHORT.answer_seconds,
        connect_args={name: value for name, value in CONNECT_ARGS.items() if name not in url.query},
    )
    sa.event.listen(engine, "do_connect", _connect)
    sa.event.listen(engine, "connect", _set_up)
    sa.event.listen(engine, "handle_error", _leave_a_standby)
    return engine


def _connect(_: Any, __: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> BoundedConnection:
    return BoundedConnection.connect(*arguments, **options)


def _set_up(connection: Any, _: Any) -> None:
    # A process that is frozen inside a transaction keeps its locks: the server ends it, so that nobody waits for it.
    idle = {"idle_in_transaction_session_timeout": int(IDLE_IN_TRANSACTION_SECONDS * 1000)}
    for name, milliseconds in (SHORT.settings | idle).items():
        connection.execute(f"SET {name} = {milliseconds}")
    connection.commit()


def _leave_a_standby(context: sa.engine.ExceptionContext) -> None:
    """After a failover the old connections lead to a server that only reads: new ones find the writer."""
    if sqlstate(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


@contextmanager
def use_timeouts(connection: sa.Connection, timeouts: Timeouts) -> Iterator[None]:
    """Other bounds than SHORT until the transaction ends."""
    raw: Any = connection.connection.dbapi_connection
    for name, milliseconds in timeouts.settings.items():
        connection.exec_driver_sql(f"SET LOCAL {name} = {milliseconds}")
    raw.answer_seconds = timeouts.answer_seconds
    try:
        yield
    finally:
        del raw.answer_seconds


def sqlstate(error: BaseException | None) -> str | None:
    """PostgreSQL's code of an error; None: it has none, or comes from elsewhere."""
    return error.sqlstate if isinstance(error, psycopg.Error) else None
