"""Leases: one worker's right to a row, a batch or a training, for a time.

The lease token grows with every claim. A write must name the current token, so a worker that was away for longer than
its lease changes nothing. A database that was restored repeats tokens and ids, so a write names the owner, and what
tells this row from another of the same id, as well.

Statements are built once and run with parameters: to build one takes a worker longer than to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa

from scanfleet.db.base import Leased
from scanfleet.db.clock import Moment, backoff_over, happened_since, lease_expired, moment
from scanfleet.db.locks import hold
from scanfleet.errors import LeaseLost
from scanfleet.retry import backoff_seconds, jittered

FREE: dict[str, Any] = {"lease_owner": None, "lease_until": None}
READY: dict[str, Any] = FREE | {"state": "ready", "notified_at": None}


@dataclass(frozen=True)
class Plus:
    """The new value of a column: the number that it holds, and some more. Nothing counts as 0."""

    n: int


@dataclass(frozen=True)
class Later:
    """The new value of a column: the database's time in so many seconds."""

    seconds: float = 0.0


@dataclass(frozen=True)
class By:
    """The new value of a column: an expression of a parameter. how: the same function each time."""

    value: Any
    how: Callable[[sa.ColumnElement[Any]], sa.ColumnElement[Any]]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A statement that changes at most one row, and returns columns of it as it is then, and of what is correlated."""

    statement: sa.Executable
    answer: sa.Select[Any] | None  # by the `row_id` that the statement returns; None: it returns the columns itself

    @classmethod
    def make(cls, dialect_name: str, table: type[Leased], update: sa.Update, returning: Sequence[Any]) -> Change:
        if dialect_name == "postgresql":
            return cls(statement=update.returning(*returning), answer=None)
        # SQLAlchemy names columns without their tables in a RETURNING of SQLite, which another table's then hide.
        answer = sa.select(*returning).where(table.id == sa.bindparam("row_id"))
        return cls(statement=update.returning(table.id), answer=answer)

    def run(self, connection: sa.Connection, parameters: Mapping[str, Any]) -> sa.Row[Any] | None:
        row = connection.execute(self.statement, parameters).one_or_none()
        if row is None or self.answer is None:
            return row
        return connection.execute(self.answer, {"row_id": row[0]}).one()


def claimable(table: type[Leased], at: Moment) -> sa.ColumnElement[bool]:
    """Whether a row is ready and its back-off is over."""
    return sa.and_(table.state == "ready", backoff_over(table.not_before, at))


def claiming(
    dialect_name: str,
    table: type[Leased],
    choice: sa.Select[Any],
    *,
    lease_seconds: float,
    returning: Sequence[Any],
    **values: Any,
) -> Change:
    """Return the change that leases the row with the lowest id that this query of ids finds, to `b_worker`."""
    pick = choice.order_by(table.id).limit(1).with_for_update(skip_locked=True, key_share=True, of=table)
    update = sa.update(table).where(table.id == pick.scalar_subquery(), table.state == "ready")
    until = moment(dialect_name, after=timedelta(seconds=lease_seconds))
    lease = {"lease_owner": sa.bindparam("b_worker"), "lease_until": until}
    counts = {"lease_token": table.lease_token + 1, "attempts": table.attempts + 1}
    return Change.make(dialect_name, table, update.values(state="leased", **lease, **counts, **values), returning)


def claim(connection: sa.Connection, changes: Iterable[Change], **parameters: Any) -> sa.Row[Any] | None:
    """Make the first of these changes that finds a row; None when none does. parameters: without their `b_`."""
    bound = {f"b_{name}": value for name, value in parameters.items()}
    return next((row for change in changes if (row := change.run(connection, bound)) is not None), None)


def touch(
    connection: sa.Connection,
    table: type[Leased],
    row_id: int,
    *,
    token: int,
    owner: str | None,
    same: Mapping[str, Any],
    returning: Sequence[sa.ColumnElement[Any]] = (),
    **values: Any,
) -> sa.Row[Any]:
    """Change a row that is held. Raises LeaseLost unless token and owner are the current ones and it is the `same`.

    values: of columns, a Plus, a Later, or a By. returning: columns of the row as it is then, and what is correlated
    with it.
    """
    kinds = tuple((name, _kind(value)) for name, value in values.items())
    of: Any = table  # mypy finds it not hashable
    change = _touching(connection.dialect.name, of, tuple(same), kinds, tuple(returning))
    held = {"row": row_id, "token": token, "owner": owner} | {f"same_{name}": value for name, value in same.items()}
    given = {f"new_{name}": _parameter(value, connection.dialect.name) for name, value in values.items()}
    if (row := change.run(connection, held | given)) is None:
        raise LeaseLost(f"{table.__name__.lower()} {row_id}: lease {token} is no longer the current one")
    return row


@cache
def _touching(
    dialect_name: str,
    table: type[Leased],
    same: tuple[str, ...],
    kinds: tuple[tuple[str, Callable[..., Any]], ...],
    returning: tuple[sa.ColumnElement[Any], ...],
) -> Change:
    columns = sa.inspect(table, raiseerr=True).columns
    held = _held(table, [columns[name] == sa.bindparam(f"same_{name}") for name in same])
    values = {name: _value(columns[name], kind, dialect_name) for name, kind in kinds}
    return Change.make(dialect_name, table, sa.update(table).where(*held).values(values), (table.id, *returning))


def _held(table: type[Leased], same: Iterable[sa.ColumnElement[bool]]) -> list[sa.ColumnElement[bool]]:
    owner = table.lease_owner.is_not_distinct_from(sa.bindparam("owner", type_=sa.Text()))
    lease = (table.lease_token == sa.bindparam("token"), owner)
    return [table.id == sa.bindparam("row"), table.state == "leased", *lease, *same]


def _kind(value: Any) -> Callable[..., Any]:
    if isinstance(value, By):
        return value.how
    return value.__class__ if isinstance(value, Plus | Later) else object


def _value(column: sa.Column[Any], kind: Callable[..., Any], dialect_name: str) -> Any:
    given: sa.BindParameter[Any] = sa.bindparam(f"new_{column.name}", type_=column.type)
    if kind is Plus:
        return sa.func.coalesce(column, 0) + given
    if kind is Later and dialect_name == "postgresql":
        return moment(dialect_name, after=sa.bindparam(given.key, type_=sa.Interval()))
    return given if kind is object or kind is Later else kind(given)


def _parameter(value: Any, dialect_name: str) -> Any:
    match value:
        case By():
            return value.value
        case Plus():
            return value.n
        case Later() if dialect_name == "postgresql":
            return timedelta(seconds=value.seconds)
        case Later():
            return datetime.now(UTC) + timedelta(seconds=value.seconds)
    return value


def after_backoff(*, n: int, waiting_for: str) -> dict[str, Any]:
    """The columns of a row that is ready again once the n-th back-off is over."""
    return READY | {"not_before": Later(jittered(backoff_seconds(n))), "waiting_for": waiting_for}


def expired(
    connection: sa.Connection,
    table: type[Leased],
    columns: Iterable[Any],
    which: sa.ColumnElement[bool] | None = None,
) -> Sequence[sa.Row[Any]]:
    """Rows whose lease ran out, or the leased ones among `which`, locked; rows locked by others are left out."""
    over = lease_expired(table.lease_until, moment(connection.dialect.name)) if which is None else which
    query = sa.select(*columns).where(table.state == "leased", over).order_by(table.id)
    return connection.execute(query.with_for_update(skip_locked=True, key_share=True)).all()


def any_expired(table: type[Leased], at: Moment) -> sa.ColumnElement[bool]:
    """Whether a lease of this table ran out."""
    return sa.exists().where(table.state == "leased", lease_expired(table.lease_until, at))


def recently_notified(table: type[Leased], renotify_seconds: float, at: Moment) -> sa.ColumnElement[bool]:
    """Whether the last notification is too young for another one. NULL where there was none."""
    return happened_since(table.notified_at, at - timedelta(seconds=renotify_seconds), at)


def mark_notified(connection: sa.Connection, ids: Collection[int], *, table: type[Leased], at: Moment | None) -> None:
    """Record when notifications were sent. None: they were not, or the next one must not wait."""
    if ids:
        hold(connection, table, table.id.in_(ids))
        connection.execute(sa.update(table).where(table.id.in_(ids)).values(notified_at=at))
