"""What workers measured while they scored, summed in the database."""

from __future__ import annotations

import sqlalchemy as sa

from scanfleet.stage_times import NAMES, StageTimes
from scanfleet.store.tables import Batch


def times_of_scan(connection: sa.Connection, scan_id: str) -> StageTimes:
    """Of the attempts that closed its batches."""
    columns = [sa.func.sum(Batch.seconds[name].as_float()).label(name) for name in NAMES]
    row = connection.execute(sa.select(*columns).where(Batch.scan_id == scan_id)).one()
    return StageTimes(sums={name: float(value) for name, value in row._mapping.items() if value is not None})
