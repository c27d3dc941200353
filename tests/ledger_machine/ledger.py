"""The real ledger of the machine: emptied for each example, read as a whole, shifted in time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.db.engine import reading, transaction
from scanfleet.db.results.scorers import scorer_id
from scanfleet.db.scans import scans
from scanfleet.db.tables import Batch, Failure, Image, Scan, Verdict
from scanfleet.db.tallies.tally import COLUMNS
from scanfleet.messages import score_queue
from tests.rigs.ledger_rig import scorer_spec

QUEUE = score_queue("fake")

_IMAGE_NAMES = ("id", "scan_id", "batch_id", "uri", "state", "verdict_id", "crashes", "rescan_of", "replaced")
_IMAGES = sa.select(*(Image.__table__.c[name] for name in _IMAGE_NAMES))
_BATCHES = sa.select(*(column for column in Batch.__table__.c if column.name not in ("queue", "scorer_id", "seconds")))
_SCANS = sa.select(
    Scan.id, Scan.state, Scan.n_listed, Scan.finished_at, Scan.trouble, Scan.not_before, Scan.waiting_for
)
_VERDICTS = sa.select(Verdict.id, Verdict.image_id, Verdict.reused_from, *COLUMNS)
_FAILURES = sa.select(Failure.image_id, Failure.stage, Failure.reason)
_TIMES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (Batch.__table__, ("lease_until", "not_before", "notified_at")),
    (Scan.__table__, ("not_before",)),
)


Backup = dict[Any, list[dict[str, Any]]]  # rows by table


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All rows at one moment, by id; verdicts as a list, because two for one image would be an error to be found."""

    images: dict[int, Any]
    batches: dict[int, Any]
    scans: dict[str, Any]
    verdicts: list[Any]
    failures: list[Any]


def quick(engine: sa.Engine) -> sa.Engine:
    """Commit without waiting for the disk: no test here cuts the power."""

    def relax(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", relax)
    return engine


def wipe(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        for table in (Failure, Verdict, Image, Batch, Scan):
            connection.execute(sa.delete(table))


def dump(engine: sa.Engine) -> Backup:
    with reading(engine) as connection:
        tables = (Scan, Batch, Image, Verdict, Failure)
        return {
            table: [dict(row._mapping) for row in connection.execute(sa.select(table.__table__))] for table in tables
        }


def restore(engine: sa.Engine, backup: Backup) -> None:
    """Bring back the rows of a backup, and give ids behind them again."""
    wipe(engine)
    with transaction(engine) as connection:
        for table, rows in backup.items():
            if rows:
                connection.execute(sa.insert(table), rows)
            if connection.dialect.name == "postgresql" and table in (Batch, Image, Verdict):
                last = max((row["id"] for row in rows), default=0)
                connection.execute(sa.text(f"ALTER SEQUENCE {table.__tablename__}_id_seq RESTART WITH {last + 1}"))


def open_scan(engine: sa.Engine, source: str, *, rescan_of: str | None = None) -> tuple[str, int]:
    """Return the ids of a new scan and of a scorer for it. rescan_of: the scan whose answers it renews."""
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(connection, check=load_check("overlay"), model="fake", sources=[source], filters={})
        connection.execute(sa.update(Scan).where(Scan.id == scan.id).values(rescan_of=rescan_of))
        return scan.id, scorer_id(connection, scorer_spec(scan.check_id))


def read(engine: sa.Engine) -> Snapshot:
    with reading(engine) as connection:
        return Snapshot(
            images={row.id: row for row in connection.execute(_IMAGES)},
            batches={row.id: row for row in connection.execute(_BATCHES)},
            scans={row.id: row for row in connection.execute(_SCANS)},
            verdicts=list(connection.execute(_VERDICTS)),
            failures=list(connection.execute(_FAILURES)),
        )


def shift(engine: sa.Engine, seconds: float) -> None:
    """Let time pass: move all times of the ledger back. Negative: its clock was set back."""
    step = timedelta(seconds=seconds)
    with transaction(engine) as connection:
        for table, names in _TIMES:
            columns = [table.c[name] for name in names]
            query = sa.select(table.c.id, *columns).where(sa.or_(*(column.is_not(None) for column in columns)))
            rows = [
                {"b_id": row.id} | {f"b_{name}": _earlier(getattr(row, name), step) for name in names}
                for row in connection.execute(query)
            ]
            if rows:
                moved: dict[str, Any] = {name: sa.bindparam(f"b_{name}") for name in names}
                connection.execute(sa.update(table).where(table.c.id == sa.bindparam("b_id")).values(moved), rows)


def _earlier(moment: datetime | None, step: timedelta) -> datetime | None:
    return None if moment is None else moment - step


def clock() -> datetime:
    """Return the time of both databases: they run on this machine."""
    return datetime.now(UTC)
