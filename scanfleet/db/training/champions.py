"""The adapter in use for a check and base model: one pointer, changed in one statement, with its history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from scanfleet.db.engine import now
from scanfleet.db.tables import Adapter, Champion, CheckRow, Promotion, ScorerRow
from scanfleet.db.training.adapters import COLUMNS, AdapterInfo, get_adapter
from scanfleet.errors import GateNotPassed, UnknownName

Kind = Literal["shipped", "gate", "person", "forced", "rollback"]
MAX_HISTORY = 100  # changes of one champion that are read


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of a champion. None as an adapter: the base alone."""

    id: int
    adapter_id: int | None
    previous_id: int | None
    kind: str
    who: str | None
    why: str
    at: datetime


def champion(connection: sa.Connection, check_name: str, base_model: str) -> AdapterInfo | None:
    """Return the adapter in use for a check and base model; None: the base model alone."""
    query = (
        sa.select(*COLUMNS)
        .join(Champion, Champion.adapter_id == Adapter.id)
        .where(Champion.check_name == check_name, Champion.base_model == base_model)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else AdapterInfo(**row._mapping)


def is_decided(connection: sa.Connection, check_name: str, base_model: str) -> bool:
    """Return True if a champion was ever set, even to the base alone."""
    query = sa.select(Champion.check_name).where(Champion.check_name == check_name, Champion.base_model == base_model)
    return connection.execute(query).first() is not None


def in_use(connection: sa.Connection, base_model: str | None = None) -> dict[tuple[str, str], int | None]:
    """(check name, base model) -> id of the adapter in use; None: the base alone, by decision."""
    query = sa.select(Champion.check_name, Champion.base_model, Champion.adapter_id)
    if base_model is not None:
        query = query.where(Champion.base_model == base_model)
    return {(row.check_name, row.base_model): row.adapter_id for row in connection.execute(query)}


def replaced_since(
    connection: sa.Connection, check_name: str, base_model: str, moment: datetime | None
) -> set[str | None]:
    """Return the digests of the adapters that were in use at this moment and later, and no longer are; None: the base.

    moment: None is before all changes. A change is dated before it is committed, so whoever saw it by then finds
    nothing here.
    """
    query = (
        sa.select(Adapter.weights_sha256)
        .select_from(Promotion)
        .outerjoin(Adapter, Adapter.id == Promotion.previous_id)
        .where(Promotion.check_name == check_name, Promotion.base_model == base_model)
    )
    if moment is not None:
        query = query.where(Promotion.at > moment)
    return set(connection.execute(query).scalars())


def predecessors(connection: sa.Connection, check_name: str, base_model: str) -> list[AdapterInfo | None]:
    """Return the adapters in use before the current champion, the newest first, each once.

    None is the base alone, where it was set, or had scored before any champion was set.
    """
    steps = history(connection, check_name, base_model)
    seen = {step.adapter_id for step in steps[:1]}
    found: list[AdapterInfo | None] = []
    for step in steps:
        certain = (
            step.previous_id is not None
            or step is not steps[-1]
            or _base_answered(connection, step, check_name, base_model)
        )
        if certain and step.previous_id not in seen:
            seen.add(step.previous_id)
            found.append(None if step.previous_id is None else get_adapter(connection, step.previous_id))
    return found


def _base_answered(connection: sa.Connection, first: Change, check_name: str, base_model: str) -> bool:
    """Return True if the base alone scored for a check before the first change of its champion."""
    query = (
        sa.select(ScorerRow.id)
        .join(CheckRow, CheckRow.id == ScorerRow.check_id)
        .where(CheckRow.name == check_name, ScorerRow.base_model == base_model, ScorerRow.adapter_id.is_(None))
        .where(ScorerRow.created_at < first.at)
    )
    return connection.execute(query.limit(1)).first() is not None


def promote(
    connection: sa.Connection, adapter_id: int, *, kind: Kind, why: str, who: str | None = None
) -> AdapterInfo | None:
    """Point the check and base model of an adapter to it: one statement, so a batch sees the old or the new one.

    Returns the previous champion. Raises UnknownName; GateNotPassed unless the gate's verdict is "promote", except for
    the kinds that a person answers for ("forced") or that were in use before ("shipped", "rollback"). A person may
    restore an adapter that was in use without force once, such as one that ships with its base.
    """
    adapter = get_adapter(connection, adapter_id)
    passed = adapter.gate_verdict == "promote" or (kind == "person" and _was_in_use(connection, adapter_id))
    if kind in ("gate", "person") and not passed:
        verdict = (
            "the gate never judged it" if adapter.gate_verdict is None else f"the gate says {adapter.gate_verdict}"
        )
        raise GateNotPassed(
            f"adapter {adapter_id} is not promoted: {verdict} (`scanfleet adapters show {adapter_id}`); "
            "to promote it anyway, add --force with a reason"
        )
    return _point(connection, adapter.check_name, adapter.base_model, adapter_id, kind=kind, why=why, who=who)


def _was_in_use(connection: sa.Connection, adapter_id: int) -> bool:
    """Return True if it was ever put in use without force."""
    query = sa.select(Promotion.id).where(
        Promotion.adapter_id == adapter_id, Promotion.kind.in_(("shipped", "gate", "person"))
    )
    return connection.execute(query.limit(1)).first() is not None


def roll_back(connection: sa.Connection, check_name: str, base_model: str, *, why: str, who: str | None) -> Change:
    """Restore the champion before the current one, which may be the base alone.

    Rolling back twice goes back two steps. Raises UnknownName where there is nothing to go back to.
    """
    _hold(connection, check_name, base_model)
    steps = history(connection, check_name, base_model)
    undone = 0
    for step in steps:
        if step.kind == "rollback":
            undone += 1
        elif undone:
            undone -= 1
        else:
            _point(connection, check_name, base_model, step.previous_id, kind="rollback", why=why, who=who)
            return history(connection, check_name, base_model, limit=1)[0]
    raise UnknownName(f"check {check_name} on {base_model} has nothing to roll back to: nothing else was in use before")


def history(connection: sa.Connection, check_name: str, base_model: str, *, limit: int = MAX_HISTORY) -> list[Change]:
    """Return the changes, the newest first."""
    columns = [Promotion.__table__.c[name] for name in Change.__dataclass_fields__]
    query = (
        sa.select(*columns)
        .where(Promotion.check_name == check_name, Promotion.base_model == base_model)
        .order_by(Promotion.id.desc())
        .limit(limit)
    )
    return [Change(**row._mapping) for row in connection.execute(query)]


def _point(
    connection: sa.Connection,
    check_name: str,
    base_model: str,
    adapter_id: int | None,
    *,
    kind: Kind,
    why: str,
    who: str | None,
) -> AdapterInfo | None:
    at, key = now(connection), {"check_name": check_name, "base_model": base_model}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(  # so that there is a row to lock, also for the first of several concurrent changes
        dialect.insert(Champion).values(key | {"adapter_id": None, "since": at}).on_conflict_do_nothing()
    )
    _hold(connection, check_name, base_model)
    before = champion(connection, check_name, base_model)
    where = (Champion.check_name == check_name, Champion.base_model == base_model)
    connection.execute(sa.update(Champion).where(*where).values(adapter_id=adapter_id, since=at))
    previous = None if before is None else before.id
    change = {"adapter_id": adapter_id, "previous_id": previous, "kind": kind, "who": who, "why": why, "at": at}
    connection.execute(sa.insert(Promotion).values(key | change))
    return before


def _hold(connection: sa.Connection, check_name: str, base_model: str) -> None:
    """Lock the pointer until this transaction ends, so that the history names the real predecessor."""
    query = sa.select(Champion.check_name).where(Champion.check_name == check_name, Champion.base_model == base_model)
    connection.execute(query.with_for_update())
