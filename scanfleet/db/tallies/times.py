"""The stage times of a scan, summed over its batches; of large scans that are done the sums are kept.

They hold as long as nobody claimed one of the batches again, and none was deleted.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from scanfleet.db.tables import Batch, Scan
from scanfleet.stats.stage_times import NAMES, StageTimes

KEPT_FROM = 100_000  # images of a scan; fewer are summed as fast as they are looked up


def times_of_scan(connection: sa.Connection, scan_id: str) -> StageTimes:
    """Return the stage times of the attempts that closed its batches."""
    kept = connection.execute(sa.select(Scan.times).where(Scan.id == scan_id)).scalar_one_or_none()
    if kept is not None and kept["claims"] == _claims(connection, scan_id):
        return StageTimes(sums=kept["sums"])
    return _summed(connection, scan_id)


def keep_times(connection: sa.Connection, scan_id: str) -> None:
    """Keep the sums of a scan that is done."""
    times = {"claims": _claims(connection, scan_id), "sums": dict(_summed(connection, scan_id).sums)}
    connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(times=times))


def _claims(connection: sa.Connection, scan_id: str) -> list[int]:
    """Return the number of batches, and of times that they were claimed."""
    counted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(Batch.lease_token), 0))
    return [int(n) for n in connection.execute(counted.where(Batch.scan_id == scan_id)).one()]


def _summed(connection: sa.Connection, scan_id: str) -> StageTimes:
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
