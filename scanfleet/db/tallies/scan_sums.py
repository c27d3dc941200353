"""Sums over the batches of a scan: stage times, and tallies.

Reconciling keeps those of large scans that are done (`scans.sums`).

Times hold as long as nobody claimed one of the batches again, and none was deleted; the tally, as long as the counts of
the batches are the same, too, and no rescan renews the scan.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa

from scanfleet.db.tables import Batch, Scan
from scanfleet.db.tallies.tally import Tally, holds
from scanfleet.stats.stage_times import NAMES, StageTimes

KEPT_FROM = 100_000  # images of a scan; fewer are summed as fast as they are looked up


def times_of_scan(connection: sa.Connection, scan_id: str) -> StageTimes:
    """Return the stage times of the attempts that closed its batches."""
    kept = _kept(connection, scan_id)
    return _summed_times(connection, scan_id) if kept is None else StageTimes(sums=kept["times"])


def kept_tally(connection: sa.Connection, scan_id: str) -> Tally | None:
    """Return the tally of a scan's current answers if it is kept and holds."""
    kept = _kept(connection, scan_id)
    if kept is None or kept["tally"] is None or kept["counts"] != _counts(connection, scan_id):
        return None
    renewed = sa.exists().where(Scan.rescan_of == scan_id)
    return None if connection.execute(sa.select(renewed)).scalar_one() else Counter(kept["tally"])


def summed_tally(connection: sa.Connection, scan_id: str) -> Tally | None:
    """Sum the tallies of its batches; None: one of them has none, or one that does not agree with its counts."""
    columns = (Batch.tally, Batch.n_verdicts, Batch.n_flagged, Batch.n_review)
    alike = sa.select(*columns, sa.func.count().label("n")).where(Batch.scan_id == scan_id, Batch.n_verdicts > 0)
    found: Tally = Counter()
    for row in connection.execute(alike.group_by(*columns)):
        if not holds(row.tally, n_verdicts=row.n_verdicts, n_flagged=row.n_flagged, n_review=row.n_review):
            return None
        for name, n in row.tally.items():
            found[name] += n * row.n
    return found


def keep_next(connection: sa.Connection) -> str | None:
    """Keep the sums of the next large scan that is done. Returns it; None: there is none left."""
    scan_id = connection.execute(_due().limit(1)).scalar_one_or_none()
    if scan_id is not None:
        keep_sums(connection, scan_id)
    return scan_id


def any_due() -> sa.ColumnElement[bool]:
    """Whether `keep_next` finds one."""
    return _due().exists()


def _due() -> sa.Select[tuple[str]]:
    return sa.select(Scan.id).where(Scan.state == "done", Scan.n_listed >= KEPT_FROM, Scan.sums.is_(None))


def keep_sums(connection: sa.Connection, scan_id: str) -> None:
    """Keep the sums of a scan that is done.

    What they hold for is read first: a change that comes in between makes them hold for nothing.
    """
    holds_for = {"claims": _claims(connection, scan_id), "counts": _counts(connection, scan_id)}
    tally = summed_tally(connection, scan_id)
    times = dict(_summed_times(connection, scan_id).sums)
    sums = holds_for | {"times": times, "tally": None if tally is None else dict(tally)}
    connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(sums=sums))


def _kept(connection: sa.Connection, scan_id: str) -> dict[str, Any] | None:
    kept = connection.execute(sa.select(Scan.sums).where(Scan.id == scan_id)).scalar_one_or_none()
    return kept if kept is not None and kept["claims"] == _claims(connection, scan_id) else None


def _claims(connection: sa.Connection, scan_id: str) -> list[int]:
    """Return the number of batches, and of times that they were claimed."""
    return _numbers(connection, scan_id, sa.func.count(), sa.func.sum(Batch.lease_token))


def _counts(connection: sa.Connection, scan_id: str) -> list[int]:
    sums = (sa.func.sum(column) for column in (Batch.n_verdicts, Batch.n_flagged, Batch.n_review))
    return _numbers(connection, scan_id, *sums)


def _numbers(connection: sa.Connection, scan_id: str, *columns: sa.ColumnElement[Any]) -> list[int]:
    row = connection.execute(sa.select(*columns).where(Batch.scan_id == scan_id)).one()
    return [int(n or 0) for n in row]


def _summed_times(connection: sa.Connection, scan_id: str) -> StageTimes:
    source: sa.FromClause = Batch.__table__
    values: dict[str, sa.ColumnElement[Any]] = {name: Batch.seconds[name].as_float() for name in NAMES}
    if connection.dialect.name == "postgresql":  # all names in one go take a third of the time
        columns = (sa.column(name, sa.Double) for name in NAMES)
        record = sa.func.jsonb_to_record(Batch.seconds).table_valued(*columns, name="record")
        typed = record.render_derived(with_types=True)
        source, values = source.join(typed, sa.true()), {name: typed.c[name] for name in NAMES}
    sums = (sa.func.sum(value).label(name) for name, value in values.items())
    row = connection.execute(sa.select(*sums).select_from(source).where(Batch.scan_id == scan_id)).one()
    return StageTimes(sums={name: float(value) for name, value in row._mapping.items() if value is not None})
