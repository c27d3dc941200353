"""Compare the ledger's times with its clock, which may be set back.

After a set-back by an hour, every time written before lies up to an hour ahead. A time further ahead than any that is
ever written counts as past: a back-off ends, a notification is stale, a dead worker's lease has expired.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.config.settings import MAX_LEASE_SECONDS
from scanfleet.retry import MAX_BACKOFF_SECONDS

SLACK = timedelta(seconds=60)  # between the clocks of several machines on one SQLite file
Time = orm.InstrumentedAttribute[Any]
Moment = datetime | sa.ColumnElement[datetime]  # a time that was asked for, or the statement's own


def backoff_over(not_before: Time, at: Moment) -> sa.ColumnElement[bool]:
    """True where a back-off is over."""
    far = at + timedelta(seconds=MAX_BACKOFF_SECONDS) + SLACK
    return sa.or_(not_before.is_(None), not_before <= at, not_before > far)


def lease_expired(lease_until: Time, at: Moment) -> sa.ColumnElement[bool]:
    """True where a lease has expired."""
    far = at + timedelta(seconds=MAX_LEASE_SECONDS) + SLACK
    return sa.or_(lease_until < at, lease_until > far)


def happened_since(moment: Time, start: Moment, at: Moment) -> sa.ColumnElement[bool]:
    """True where something happened between `start` and now (`at`)."""
    return sa.and_(moment >= start, moment <= at + SLACK)
