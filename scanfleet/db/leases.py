"""Leases: one worker's right to a row, a batch or a training, for a time.

The lease token grows with every claim. A write must name the current token, so a worker that was away for longer than
its lease changes nothing. A database that was restored repeats tokens and ids, so a write names the owner, and what
tells this row from another of the same id, as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from scanfleet.db.base import Leased
from scanfleet.db.clock import Moment, backoff_over, happened_since, lease_expired
from scanfleet.db.engine import now
from scanfleet.db.locks import hold
from scanfleet.errors import LeaseLost
from scanfleet.retry import backoff_seconds, jittered

FREE: dict[str, Any] = {"lease_owner": None, "lease_until": None}
READY: dict[str, Any] = FREE | {"state": "ready", "notified_at": None}


def claimable(table: type[Leased], at: Moment) -> sa.ColumnElement[bool]:
    """Whether a row is ready and its back-off is over."""
    return sa.and_(table.state == "ready", backoff_over(table.not_before, at))


def claim(
    connection: sa.Connection,
    table: type[Leased],
    choices: Iterable[sa.Select[Any]],
    *,
    at: datetime,
    worker: str,
    lease_seconds: float,
    returning: Iterable[Any],
    **values: Any,
) -> sa.Row[Any] | None:
    """Lease the row with the lowest id that the first of these queries of ids finds; None when none finds any."""
    for choice in choices:
        pick = choice.order_by(table.id).limit(1).with_for_update(skip_locked=True, key_share=True, of=table)
        update = sa.update(table).where(table.id == pick.scalar_subquery(), table.state == "ready")
        lease = {"lease_owner": worker, "lease_until": at + timedelta(seconds=lease_seconds)}
        counts = {"lease_token": table.lease_token + 1, "attempts": table.attempts + 1}
        leased = update.values(state="leased", **lease, **counts, **values).returning(*returning)
        if (row := connection.execute(leased).one_or_none()) is not None:
            return row
    return None


def touch(
    connection: sa.Connection,
    table: type[Leased],
    row_id: int,
    *same: sa.ColumnElement[bool],
    token: int,
    owner: str | None,
    **values: Any,
) -> None:
    """Change a row that is held. Raises LeaseLost unless token and owner are the current ones and it is the `same`."""
    held = (table.id == row_id, table.lease_token == token, table.lease_owner == owner, table.state == "leased", *same)
    if connection.execute(sa.update(table).where(*held).values(values)).rowcount != 1:
        raise LeaseLost(f"{table.__name__.lower()} {row_id}: lease {token} is no longer the current one")


def any_expired(table: type[Leased], at: Moment) -> sa.ColumnElement[bool]:
    """Whether a lease of this table ran out."""
    return sa.exists().where(table.state == "leased", lease_expired(table.lease_until, at))


def end_of_lease(connection: sa.Connection, lease_seconds: float) -> datetime:
    """When a lease that begins now runs out."""
    return now(connection) + timedelta(seconds=lease_seconds)


def after_backoff(connection: sa.Connection, *, n: int, waiting_for: str) -> dict[str, Any]:
    """The columns of a row that is ready again once the n-th back-off is over."""
    not_before = now(connection) + timedelta(seconds=jittered(backoff_seconds(n)))
    return READY | {"not_before": not_before, "waiting_for": waiting_for}


def expired(
    connection: sa.Connection,
    table: type[Leased],
    columns: Iterable[Any],
    which: sa.ColumnElement[bool] | None = None,
) -> Sequence[sa.Row[Any]]:
    """Rows whose lease ran out, or the leased ones among `which`, locked; rows locked by others are left out."""
    over = lease_expired(table.lease_until, now(connection)) if which is None else which
    query = sa.select(*columns).where(table.state == "leased", over).order_by(table.id)
    return connection.execute(query.with_for_update(skip_locked=True, key_share=True)).all()


def recently_notified(table: type[Leased], renotify_seconds: float, at: Moment) -> sa.ColumnElement[bool]:
    """Whether the last notification is too young for another one. NULL where there was none."""
    return happened_since(table.notified_at, at - timedelta(seconds=renotify_seconds), at)


def mark_notified(connection: sa.Connection, ids: Collection[int], *, table: type[Leased], at: datetime | None) -> None:
    """Record when notifications were sent. None: they were not, or the next one must not wait."""
    if ids:
        hold(connection, table, table.id.in_(ids))
        connection.execute(sa.update(table).where(table.id.in_(ids)).values(notified_at=at))
