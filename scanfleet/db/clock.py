"""Compare the ledger's times with its clock, which may be set back.

After a set-back by an hour, every time written before lies up to an hour ahead. A time further ahead than any that is
ever written counts as past: a back-off ends, a notification is stale, a dead worker's lease has expired.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.config.settings import MAX_LEASE_SECONDS
from scanfleet.db.base import UtcDateTime
from scanfleet.retry import MAX_BACKOFF_SECONDS

SLACK = timedelta(seconds=60)  # between the clocks of several machines on one SQLite file
Time = orm.InstrumentedAttribute[Any]
Moment = datetime | sa.ColumnElement[datetime]  # a time, or what a statement reads as its time


def moment(dialect_name: str, *, after: timedelta | sa.BindParameter[timedelta] | None = None) -> Moment:
    """Return the database's time when a statement begins, for use inside it, however often that is run.

    after: how much later.
    """
    if dialect_name == "postgresql":
        begun: sa.ColumnElement[Any] = sa.func.statement_timestamp(type_=sa.DateTime(timezone=True))
        return begun if after is None else begun + after
    assert not isinstance(after, sa.BindParameter)
    return sa.bindparam(None, callable_=lambda: datetime.now(UTC) + (after or timedelta()), type_=UtcDateTime())


def _later(at: Moment, by: timedelta) -> Moment:
    if isinstance(at, sa.BindParameter) and at.callable is not None:
        earlier = at.callable
        return sa.bindparam(None, callable_=lambda: earlier() + by, type_=UtcDateTime())
    return at + by


def backoff_over(not_before: Time, at: Moment) -> sa.ColumnElement[bool]:
    """True where a back-off is over."""
    far = _later(at, timedelta(seconds=MAX_BACKOFF_SECONDS) + SLACK)
    return sa.or_(not_before.is_(None), not_before <= at, not_before > far)


def lease_expired(lease_until: Time, at: Moment) -> sa.ColumnElement[bool]:
    """True where a lease has expired."""
    far = _later(at, timedelta(seconds=MAX_LEASE_SECONDS) + SLACK)
    return sa.or_(lease_until < at, lease_until > far)


def happened_since(when: Time, start: Moment, at: Moment) -> sa.ColumnElement[bool]:
    """True where something happened between `start` and now (`at`)."""
    return sa.and_(when >= start, when <= _later(at, SLACK))
