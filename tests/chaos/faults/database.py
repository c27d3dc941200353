"""A ledger that lost its last seconds, or whose clock jumped."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from scanfleet.db.engine import transaction
from scanfleet.db.scans import scans
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import DatabaseUnavailable, RequestError
from tests.chaos.archive import late_scans
from tests.chaos.faults.base import Begun, Fault, Ground, NotNow
from tests.chaos.recovery import n_settled

JUMP = timedelta(hours=1)
LOST_SECONDS = (2.0, 6.0)


def database_restored(ground: Ground) -> Begun:
    """Copy the database, begin two scans of two further checks, and put the copy back seconds later.

    Workers live on, and something was scored in between. In half of the cases somebody pauses the other scans first,
    so that the new ones are scored at once. Half of the copies are base backups of the running server, the others are
    made while it is stopped: after a base backup, sequences leave out up to 32 values; after the other, lost ids come
    again at once.
    """
    postgres = ground.services.postgres
    ground.take("database", "database files")
    engine = ground.services.engine
    copy = postgres.base_backup() if ground.rng.random() < 0.5 else postgres.cold_copy()
    copied = n_settled(engine) or 0
    ground.give_back("database")
    if ground.rng.random() < 0.5:
        _pause_all(ground)
    for scan in late_scans(len(ground.producers.scans)):
        ground.producers.begin(scan)

    def put_back() -> None:
        before = n_settled(engine)
        postgres.put_back(copy)
        after = n_settled(engine)
        if before is not None and after is not None:
            ground.undone.append(max(before - after, 0))
        ground.recovery.forget()
        ground.producers.restored()
        ground.give_back("database files")

    def some_are_scored() -> bool:
        return (n_settled(engine) or 0) > copied

    return Begun(seconds=ground.rng.uniform(*LOST_SECONDS), effect=some_are_scored, end=put_back)


def _pause_all(ground: Ground) -> None:
    try:
        with transaction(ground.services.engine) as connection:
            for scan in scans.list_scans(connection):
                if scan.state == "running":
                    scans.pause(connection, scan.id)
    except (DatabaseUnavailable, RequestError):  # RequestError: it was done a moment ago
        return


def clock_jump(ground: Ground) -> Begun:
    """Move all times of the ledger by an hour, as if its clock moved the other way."""
    ground.need("database")
    by = sa.literal(ground.rng.choice((JUMP, -JUMP)), sa.Interval())
    try:
        with transaction(ground.services.engine) as connection:
            connection.execute(sa.text("SET LOCAL lock_timeout = '2s'"))  # a frozen worker may hold a row
            for table, names in ((Batch, ("lease_until", "not_before", "notified_at")), (Scan, ("not_before",))):
                columns = table.__table__.c
                moved = {name: columns[name] + by for name in names if name in columns}
                if moved:
                    connection.execute(sa.update(table).values(moved))
    except DatabaseUnavailable:
        raise NotNow from None
    return Begun()


FAULTS: dict[str, Fault] = {"database_restored": database_restored, "clock_jump": clock_jump}
