"""Trainings: request, claim under a lease (scanfleet.db.leases), heartbeat, settle or give back.

Three counts of failed attempts are kept in `progress`, and reset whenever a training gets further than ever before.
`crashes` of the computing process end the training at MAX_CRASHES. `losses` of the whole worker (expired leases) end it
at MAX_LOSSES. `retries` after transient errors never do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from scanfleet.db import leases
from scanfleet.db.clock import Moment, moment
from scanfleet.db.engine import now
from scanfleet.db.tables import Training
from scanfleet.errors import RequestError, UnknownName

UNFINISHED = ("ready", "leased")
MAX_CRASHES = 3  # in a row
MAX_LOSSES = 10  # in a row: most workers are killed for reasons that have nothing to do with the training
REQUEST_LOCK = 7_226_353  # PostgreSQL advisory lock: of two concurrent requests one sees the other's row


@dataclass(frozen=True, kw_only=True)
class TrainingInfo:
    """A row of the ledger."""

    id: int
    check_id: int
    check_name: str
    base_model: str
    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)
    seed: int
    reason: str
    who: str | None
    newest_label: int
    state: str
    stage: str | None
    progress: dict[str, Any] | None
    lease_owner: str | None
    lease_token: int
    attempts: int
    not_before: datetime | None
    waiting_for: str | None
    adapter_id: int | None
    champion_id: int | None
    verdict: str | None
    report: dict[str, Any] | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.state not in UNFINISHED


COLUMNS = [Training.__table__.c[name] for name in TrainingInfo.__dataclass_fields__]


class AlreadyUnderWay(RequestError):
    """A training of this check and base model has not ended yet."""

    def __init__(self, other: TrainingInfo) -> None:
        super().__init__(
            f"training {other.id} of check {other.check_name} on {other.base_model} has not ended: wait for it "
            f"(`scanfleet train watch {other.id}`) or end it (`scanfleet train cancel {other.id}`)"
        )
        self.other = other


def request(
    connection: sa.Connection,
    *,
    check_id: int,
    check_name: str,
    base_model: str,
    recipe: str,
    reason: str,
    newest_label: int,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    who: str | None = None,
) -> int:
    """Return the id of a new training. who: a person; None: the training worker. Raises AlreadyUnderWay."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(REQUEST_LOCK)))
    other = newest(connection, check_name, base_model)
    if other is not None and not other.ended:
        raise AlreadyUnderWay(other)
    values = {
        "check_id": check_id,
        "check_name": check_name,
        "base_model": base_model,
        "recipe": recipe,
        "overrides": overrides or {},
        "seed": seed,
        "reason": reason,
        "who": who,
        "newest_label": newest_label,
        "state": "ready",
        "lease_token": 0,
        "attempts": 0,
        "created_at": now(connection),
    }
    return connection.execute(sa.insert(Training).values(values).returning(Training.id)).scalar_one()


def get(connection: sa.Connection, training_id: int) -> TrainingInfo:
    """Return a training. Raises UnknownName."""
    found = find(connection, training_id)
    if found is None:
        raise UnknownName(f"no training {training_id}: `scanfleet train ls` lists them")
    return found


def find(connection: sa.Connection, training_id: int) -> TrainingInfo | None:
    return next(iter(_rows(connection, sa.select(*COLUMNS).where(Training.id == training_id))), None)


def newest(connection: sa.Connection, check_name: str, base_model: str) -> TrainingInfo | None:
    """Return the training of a check and base model that was requested last, in any state."""
    query = sa.select(*COLUMNS).where(Training.check_name == check_name, Training.base_model == base_model)
    return next(iter(_rows(connection, query.order_by(Training.id.desc()).limit(1))), None)


def list_trainings(connection: sa.Connection, *, check_name: str | None = None, limit: int = 50) -> list[TrainingInfo]:
    """Return trainings, the newest first."""
    query = sa.select(*COLUMNS).order_by(Training.id.desc()).limit(limit)
    if check_name is not None:
        query = query.where(Training.check_name == check_name)
    return _rows(connection, query)


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> list[TrainingInfo]:
    return [TrainingInfo(**row._mapping) for row in connection.execute(query)]


def claim(
    connection: sa.Connection, *, worker: str, base_model: str, lease_seconds: float, notified: int | None = None
) -> TrainingInfo | None:
    """Lease the notified training, or any other ready one of the base model; None when there is none."""
    dialect_name = connection.dialect.name
    at = moment(dialect_name)
    ready = sa.select(Training.id).where(_claimable(base_model, at))
    started = {"started_at": sa.func.coalesce(Training.started_at, at), "waiting_for": None}
    choices = [ready] if notified is None else [ready.where(Training.id == notified), ready]
    changes = [
        leases.claiming(dialect_name, Training, choice, lease_seconds=lease_seconds, returning=COLUMNS, **started)
        for choice in choices
    ]
    row = leases.claim(connection, changes, worker=worker)
    return None if row is None else TrainingInfo(**row._mapping)


def has_ready(connection: sa.Connection, base_model: str) -> bool:
    """Return True if `claim` would find one now."""
    query = sa.select(Training.id).where(_claimable(base_model, moment(connection.dialect.name)))
    return connection.execute(query.limit(1)).first() is not None


def _claimable(base_model: str, at: Moment) -> sa.ColumnElement[bool]:
    return sa.and_(Training.base_model == base_model, leases.claimable(Training, at))


def beat(
    connection: sa.Connection,
    held: TrainingInfo,
    *,
    lease_seconds: float,
    stage: str | None,
    progress: dict[str, Any] | None,
) -> None:
    """Extend the lease and record the progress. Raises LeaseLost, also once the training was cancelled."""
    _touch(connection, held, lease_until=leases.Later(lease_seconds), stage=stage, progress=progress)


def settle(
    connection: sa.Connection,
    held: TrainingInfo,
    *,
    report: dict[str, Any] | None = None,
    verdict: str | None = None,
    adapter_id: int | None = None,
    champion_id: int | None = None,
    error: str | None = None,
) -> None:
    """End the training: done with the gate's verdict, or, with an `error`, failed. Raises LeaseLost.

    Must be the first statement of the transaction that also promotes.
    """
    _touch(
        connection,
        held,
        **leases.FREE,
        state="done" if error is None else "failed",
        finished_at=leases.Later(),
        waiting_for=None,
        report=report,
        verdict=verdict,
        adapter_id=adapter_id,
        champion_id=champion_id,
        error=error,
    )


def require_held(connection: sa.Connection, held: TrainingInfo) -> None:
    """Check the lease, as the first statement of a transaction that writes for a training. Raises LeaseLost."""
    _touch(connection, held, state="leased")


def give_back(connection: sa.Connection, held: TrainingInfo) -> None:
    """Make it ready at once, because the worker ends. The attempt does not count. Raises LeaseLost."""
    _touch(connection, held, **leases.READY, attempts=leases.Plus(-1))


def wait(connection: sa.Connection, held: TrainingInfo, *, waiting_for: str, progress: dict[str, Any]) -> None:
    """Make it ready after a back-off, because of a transient error. Raises LeaseLost."""
    _retry(connection, held, waiting_for, progress, count="retries")


def crashed(connection: sa.Connection, held: TrainingInfo, *, how: str, progress: dict[str, Any]) -> bool:
    """Record that the computing process crashed. Returns True if the training has failed. Raises LeaseLost."""
    if progress.get("crashes", 0) + 1 < MAX_CRASHES:
        _retry(connection, held, f"its process ended ({how})", progress, count="crashes")
        return False
    settle(
        connection,
        held,
        error=f"its process ended {MAX_CRASHES} times in a row at the same place, the last time: {how}",
    )
    return True


def _retry(
    connection: sa.Connection, held: TrainingInfo, waiting_for: str, progress: dict[str, Any], *, count: str
) -> None:
    n = progress.get(count, 0) + 1
    waiting = leases.after_backoff(n=n, waiting_for=waiting_for)
    _touch(connection, held, **waiting, progress=progress | {count: n})


def cancel(connection: sa.Connection, training_id: int) -> bool:
    """Cancel a training; its worker notices at its next heartbeat. False: it had ended. Raises UnknownName."""
    get(connection, training_id)
    ended = connection.execute(
        sa.update(Training)
        .where(Training.id == training_id, Training.state.in_(UNFINISHED))
        .values(**leases.FREE, state="cancelled", waiting_for=None, finished_at=now(connection))
    )
    return ended.rowcount == 1


def lost(connection: sa.Connection, held: TrainingInfo) -> None:
    """Make it ready after its lease expired, or, after MAX_LOSSES in a row, failed. Raises LeaseLost."""
    progress = held.progress or {}
    losses = progress.get("losses", 0) + 1
    if losses < MAX_LOSSES:
        _touch(connection, held, **leases.READY, progress=progress | {"losses": losses})
        return
    place = f"at {held.stage}" if held.stage else "before its first stage"
    settle(connection, held, error=f"its worker stopped responding {losses} times in a row {place}")


def under_way(connection: sa.Connection) -> dict[str, TrainingInfo]:
    """Return the training of each training worker, by the worker's name."""
    rows = _rows(connection, sa.select(*COLUMNS).where(Training.state == "leased"))
    return {row.lease_owner or "": row for row in rows}


def _touch(connection: sa.Connection, held: TrainingInfo, **values: Any) -> None:
    same = {"created_at": held.created_at}
    leases.touch(connection, Training, held.id, token=held.lease_token, owner=held.lease_owner, same=same, **values)
