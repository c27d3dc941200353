"""A scan: started, listed, watched, paused, resumed, cancelled, finished."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from scanfleet.checks.check import Check
from scanfleet.db.engine import now
from scanfleet.db.locks import hold
from scanfleet.db.scans.checks import save_check
from scanfleet.db.tables import Batch, CheckRow, Image, Scan
from scanfleet.errors import RequestError, UnknownName
from scanfleet.messages import score_queue

_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # no 0/o, 1/l/i: people read these ids aloud


@dataclass(frozen=True, kw_only=True)
class ScanInfo:
    id: str
    check: str
    check_id: int
    model: str
    queue: str
    sources: tuple[str, ...]
    filters: dict[str, Any]
    state: str
    cursor: dict[str, Any] | None
    n_listed: int | None  # None until the listing ends
    created_at: datetime
    finished_at: datetime | None
    rescan_of: str | None = None  # the scan whose answers this one renews


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Counts of a scan, summed over batches, not images: ten million images are 156 thousand rows."""

    n_images: int  # enqueued so far
    n_verdicts: int
    n_failures: int
    n_cancelled: int
    n_reused: int
    n_flagged: int  # of the current answers, as n_review: a rescan changes them
    n_review: int
    n_batches: int
    n_leased: int
    waiting_for: str | None  # the transient error that some batch waits for

    @property
    def n_done(self) -> int:
        return self.n_verdicts + self.n_failures + self.n_cancelled

    @property
    def n_pending(self) -> int:
        return self.n_images - self.n_done


def open_scan(
    connection: sa.Connection,
    *,
    check: Check,
    model: str,
    sources: Sequence[str],
    filters: dict[str, Any],
    fresh: bool = False,
    pass_id: str | None = None,
) -> tuple[ScanInfo, bool]:
    """Return the scan of this check, model, sources and filters, and whether it is new. fresh: start another one.

    pass_id: of the pass that it joins, if it is in none.
    """
    identity = _identity(check, model, sources, filters, salt=secrets.token_hex(8) if fresh else "")
    existing = connection.execute(sa.select(Scan.id).where(Scan.identity == identity)).scalar_one_or_none()
    if existing is not None:
        if pass_id is not None:
            joins = sa.update(Scan).where(Scan.id == existing, Scan.pass_id.is_(None))
            connection.execute(joins.values(pass_id=pass_id))
        return get_scan(connection, existing), False
    added = add_scan(
        connection,
        identity=identity,
        check_id=save_check(connection, check),
        model=model,
        queue=score_queue(model),
        sources=list(sources),
        filters=filters,
        pass_id=pass_id,
    )
    return added, True


REQUEST = "request"  # the kind of a scan that answers one request of the HTTP API


def add_scan(connection: sa.Connection, **values: Any) -> ScanInfo:
    """Add a running scan with these columns, under a new id."""
    scan_id = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    connection.execute(sa.insert(Scan).values(id=scan_id, state="running", created_at=now(connection), **values))
    return get_scan(connection, scan_id)


def _identity(check: Check, model: str, sources: Sequence[str], filters: dict[str, Any], *, salt: str) -> str:
    body = json.dumps([check.hash, model, list(sources), filters, salt], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


def get_scan(connection: sa.Connection, scan_id: str) -> ScanInfo:
    """Return a scan by its id, or by a unique prefix of it. Raises UnknownName."""
    if not scan_id:
        raise UnknownName("the id of a scan is needed: `scanfleet scans ls` lists them")
    found = _select_scans(connection, Scan.id.startswith(scan_id, autoescape=True), limit=2)
    exact = [scan for scan in found if scan.id == scan_id] or found
    if len(exact) != 1:
        problem = "several scans begin with" if exact else "no scan"
        raise UnknownName(f"{problem} {scan_id!r}: `scanfleet scans ls` lists them")
    return exact[0]


def list_scans(connection: sa.Connection, *, limit: int = 1000) -> list[ScanInfo]:
    """Return the scans of archives, the newest first. Requests of the HTTP API are left out: there are thousands."""
    return _select_scans(connection, Scan.kind.is_(None), limit=limit)


def names_in_scans(connection: sa.Connection) -> dict[str, list[str]]:
    """Return the names of the checks and models that scans have, by kind."""
    check = sa.select(CheckRow.name).where(sa.exists().where(Scan.check_id == CheckRow.id))
    found = {"check": check, "model": sa.select(Scan.model)}
    return {kind: sorted(connection.execute(query.distinct()).scalars()) for kind, query in found.items()}


def list_rescans(connection: sa.Connection, scan_id: str, *, limit: int = 100) -> list[ScanInfo]:
    """Return the rescans of this scan, the newest first."""
    return _select_scans(connection, Scan.rescan_of == scan_id, limit=limit)


def _select_scans(connection: sa.Connection, where: sa.ColumnElement[bool], *, limit: int) -> list[ScanInfo]:
    query = (
        sa.select(Scan.__table__, CheckRow.name.label("check"))
        .join(CheckRow, CheckRow.id == Scan.check_id)
        .where(where)
        .order_by(Scan.created_at.desc(), Scan.id)
        .limit(limit)
    )
    return [
        ScanInfo(
            id=row.id,
            check=row.check,
            check_id=row.check_id,
            model=row.model,
            queue=score_queue(row.model),  # its row may name the one of an older release
            sources=tuple(row.sources),
            filters=row.filters,
            state=row.state,
            cursor=row.cursor,
            n_listed=row.n_listed,
            created_at=row.created_at,
            finished_at=row.finished_at,
            rescan_of=row.rescan_of,
        )
        for row in connection.execute(query)
    ]


def progress(connection: sa.Connection, scan_id: str) -> Progress:
    return _progress_by_scan(connection, Scan.id == scan_id).get(scan_id, NOTHING)


def list_progress(connection: sa.Connection, *, limit: int = 1000) -> list[tuple[ScanInfo, Progress]]:
    """Return the newest scans with their progress, from two statements however many there are."""
    newest = sa.select(Scan.id).where(Scan.kind.is_(None)).order_by(Scan.created_at.desc(), Scan.id).limit(limit)
    found = list_scans(connection, limit=limit)
    done = _progress_by_scan(connection, Scan.id.in_(newest))
    return [(scan, done.get(scan.id, NOTHING)) for scan in found]


NOTHING = Progress(
    n_images=0,
    n_verdicts=0,
    n_failures=0,
    n_cancelled=0,
    n_reused=0,
    n_flagged=0,
    n_review=0,
    n_batches=0,
    n_leased=0,
    waiting_for=None,
)
_SUMMED = ("n_images", "n_verdicts", "n_failures", "n_reused", "n_flagged", "n_review")


def _progress_by_scan(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[str, Progress]:
    """Return the progress of these scans. That a scan waits for its store comes before what a batch waits for."""
    left = Batch.n_images - Batch.n_verdicts - Batch.n_failures
    sums: dict[str, sa.ColumnElement[Any]] = {name: sa.func.sum(Batch.__table__.c[name]) for name in _SUMMED}
    sums["n_cancelled"] = sa.func.sum(sa.case((Batch.state == "cancelled", left), else_=0))
    sums["n_batches"] = sa.func.count(Batch.id)
    sums["n_leased"] = sa.func.sum(sa.case((Batch.state == "leased", 1), else_=0))
    other = orm.aliased(Batch)  # its counts alone need not read the rows of batches
    waits = (other.scan_id == Scan.id, other.state.in_(("ready", "leased")))
    waiting = sa.select(sa.func.max(other.waiting_for)).where(*waits).scalar_subquery()
    query = (
        sa.select(Scan.id, Scan.waiting_for.label("held"), waiting.label("waiting"))
        .add_columns(*(column.label(name) for name, column in sums.items()))
        .outerjoin(Batch, Batch.scan_id == Scan.id)
        .where(which)
        .group_by(Scan.id, Scan.waiting_for)
    )
    found = {}
    for row in connection.execute(query):
        counts = {name: int(row._mapping[name] or 0) for name in sums}
        found[row.id] = Progress(**counts, waiting_for=row.waiting if row.held is None else row.held)
    return found


def pause(connection: sa.Connection, scan_id: str) -> None:
    """Let no further batch be claimed; batches under way end normally, which takes seconds."""
    _move(connection, scan_id, {"running"}, "paused", done="paused")


def resume(connection: sa.Connection, scan_id: str) -> None:
    """Let batches be claimed again. It lifts the limits of a scan that one of them paused."""
    _move(connection, scan_id, {"paused"}, "running", done="resumed")
    reached = Scan.limits["reached"].as_string().is_not(None)
    connection.execute(sa.update(Scan).where(Scan.id == scan_id, reached).values(limits=None))


def cancel(connection: sa.Connection, scan_id: str) -> int:
    """End a scan now. Scored images stay; the rest is cancelled. Returns the number of cancelled images.

    Batches under way lose their lease: late writers write nothing.
    """
    while not _cancel_batches(connection, scan_id):
        pass  # each attempt waits for the batch that was locked
    ended = connection.execute(
        sa.update(Image).where(Image.scan_id == scan_id, Image.state == "pending").values(state="cancelled")
    )
    connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(finished_at=now(connection)))
    return ended.rowcount


def _cancel_batches(connection: sa.Connection, scan_id: str) -> bool:
    """Cancel the scan with its open batches, or nothing: False when another transaction is writing a new batch.

    Batches are locked before the scan, as their writers do (db/locks.py). Until the scan is locked, a listing or a
    retry may add others, and a worker may be writing one. That worker needs the scan, so this must not wait for it.
    """
    opened = (Batch.scan_id == scan_id, Batch.state.in_(("ready", "leased")))
    with connection.begin_nested() as attempt:
        hold(connection, Batch, *opened)
        _move(connection, scan_id, {"running", "paused"}, "cancelled", done="cancelled")
        n_held = hold(connection, Batch, *opened, skip_locked=True)
        n_open = connection.execute(sa.select(sa.func.count()).select_from(Batch).where(*opened)).scalar_one()
        if n_open > n_held:
            attempt.rollback()  # releases the locks
            return False
        ended = {"lease_until": None, "in_hand": None, "waiting_for": None, "finished_at": now(connection)}
        values = {"state": "cancelled", "lease_token": Batch.lease_token + 1} | ended
        connection.execute(sa.update(Batch).where(*opened).values(values))
    return True


def _move(connection: sa.Connection, scan_id: str, allowed: set[str], to: str, *, done: str) -> None:
    moved = connection.execute(sa.update(Scan).where(Scan.id == scan_id, Scan.state.in_(allowed)).values(state=to))
    if moved.rowcount == 0:
        state = get_scan(connection, scan_id).state
        raise RequestError(f"scan {scan_id} is {state}; only a {' or '.join(sorted(allowed))} scan can be {done}")


def finish_if_complete(connection: sa.Connection, scan_id: str) -> bool:
    """Mark a scan done when its listing has ended and no batch is open. Returns True if it did.

    Two workers that settle the last two batches at the same moment each still see the other's open. The reconciler
    calls `finish_all_complete` for that reason.
    """
    return _finish(connection, Scan.id == scan_id) == 1


def finish_all_complete(connection: sa.Connection) -> int:
    """Mark every scan done whose last batch is settled. Returns the number."""
    return _finish(connection, sa.true())


def any_complete() -> sa.ColumnElement[bool]:
    """Whether `finish_all_complete` may find a scan."""
    return sa.exists().where(*_complete())


def _complete() -> tuple[sa.ColumnElement[bool], ...]:
    open_batches = sa.exists().where(Batch.scan_id == Scan.id, Batch.state.in_(("ready", "leased")))
    return Scan.state == "running", Scan.n_listed.is_not(None), ~open_batches


def _finish(connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
    complete = (which, *_complete())
    # Two statements: a transaction that reopens batches holds the scan's row, and only a statement that begins after
    # its commit sees them.
    query = sa.select(Scan.id).where(*complete).order_by(Scan.id)
    candidates = connection.execute(query.with_for_update(key_share=True)).scalars().all()
    if not candidates:
        return 0
    moved = connection.execute(
        sa.update(Scan).where(Scan.id.in_(candidates), *complete).values(state="done", finished_at=now(connection))
    )
    return moved.rowcount


def reopen(connection: sa.Connection, scan_id: str) -> None:
    """Let a finished scan take more work: a new listing of its sources, or a retry."""
    connection.execute(
        sa.update(Scan)
        .where(Scan.id == scan_id, Scan.state == "done")
        .values(state="running", finished_at=None, sums=None)
    )
