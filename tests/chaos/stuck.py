"""A description of what a stalled fleet waits for."""

from __future__ import annotations

import sqlalchemy as sa

from scanfleet.db.engine import now, reading
from scanfleet.db.tables import Base, Batch
from scanfleet.errors import DatabaseUnavailable
from tests.chaos.fleet.services import RunServices
from tests.chaos.fleet.supervisor import Supervisor

N_BATCHES = 8


def what_is_stuck(services: RunServices, fleet: Supervisor) -> str:
    """The scans, the oldest open batches, and the ends of the workers' logs."""
    lines = [f"stopped services: {', '.join(sorted(services.down)) or 'none'}"]
    try:
        lines += _open_work(services.engine)
    except DatabaseUnavailable as error:
        lines.append(str(error))
    for slot in fleet.slots:
        lines += [f"--- worker {slot.number}, process {slot.pid}, frozen: {slot.frozen}", slot.log_tail()]
    return "\n".join(lines)


def _open_work(engine: sa.Engine) -> list[str]:
    oldest = sa.select(Batch.__table__).where(Batch.state.in_(("ready", "leased"))).order_by(Batch.id).limit(N_BATCHES)
    counts = sa.select(Batch.state, sa.func.count()).group_by(Batch.state)
    with reading(engine) as connection:
        lines = [
            f"the ledger's clock: {now(connection)}",
            f"batches: {dict(connection.execute(counts).tuples().all())}",
        ]
        for query in (sa.select(Base.metadata.tables["scans"]), oldest):
            lines += [_words(row) for row in connection.execute(query)]
    return lines


def _words(row: sa.Row[tuple[object, ...]]) -> str:
    return "  ".join(f"{name}={value}" for name, value in row._mapping.items() if value not in (None, 0, "", [], {}))
