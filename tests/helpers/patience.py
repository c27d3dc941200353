"""Deadlines of tests: meant for an idle machine, and longer on a busy one."""

import os
import time

import sqlalchemy as sa

_WAITERS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"


def patient(seconds: float) -> float:
    """Scale seconds of an idle machine by the number of runnable processes per core of this one."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def until_waited_for(connection: sa.Connection) -> None:
    """Return when another connection to this PostgreSQL waits for a lock of this one."""
    deadline = time.monotonic() + patient(30)
    while not connection.exec_driver_sql(_WAITERS).scalar_one():
        assert time.monotonic() < deadline, "nobody waits"
