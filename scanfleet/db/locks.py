"""The order in which every writer of the ledger takes its locks, so that no two of them wait for each other.

1. **Batches**, in the order of their ids.
2. **Images**, in the order of their ids. The lock of an open batch covers its pending images.
3. **Scans**, in the order of their ids.

A transaction that needs a batch while it holds a scan takes only free ones (SKIP LOCKED): a listing that notifies, the
breaker that resets notifications, a cancellation that meets new batches. There is one exception: a rescan's verdict
locks the answered images of the *older* scan before their batches (db/results/rescan_writes.py), because only then
does it know which counts change; no transaction that holds an older batch waits for an answered image.

**All locks are FOR NO KEY UPDATE**, as an UPDATE's own. Every row that names a scan, a batch or an image holds the key
of that row (FOR KEY SHARE) until its transaction ends: an insert does, and so does the second UPDATE of a row in one
transaction. FOR UPDATE waits for those keys, so that two transactions that hold one could deadlock.

A deletion (db/deletion/removal.py) takes batches first, then verdicts and images FOR UPDATE: it waits for those that
copy or renew them, and these take what they name in the order of the ids.

SQLite has one write lock, taken when a transaction begins: there these are plain reads.
"""

from __future__ import annotations

import sqlalchemy as sa

from scanfleet.db.base import Leased
from scanfleet.db.tables import Scan


def hold(
    connection: sa.Connection, table: type[Leased], *which: sa.ColumnElement[bool], skip_locked: bool = False
) -> int:
    """Lock these batches or trainings until the transaction ends. Returns how many it holds now.

    skip_locked: only those that no other transaction holds, without waiting.
    """
    found = sa.select(table.id).where(*which).order_by(table.id)
    held = found.with_for_update(key_share=True, skip_locked=skip_locked).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(held)).scalar_one()


def hold_scan(connection: sa.Connection, scan_id: str) -> str:
    """Lock a scan until the transaction ends, so that its state does not change. Returns that state."""
    query = sa.select(Scan.state).where(Scan.id == scan_id)
    return connection.execute(query.with_for_update(key_share=True)).scalar_one()
