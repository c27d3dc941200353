"""Negative controls: a worker with one part of its protection removed. `python -m tests.chaos.sabotage PART score`.

A chaos run that cannot tell such a fleet from a whole one proves nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa


def without_reconciler() -> None:
    """Expired leases and lost messages are never recovered."""
    import worker.processes.timers
    from scanfleet.reconcile import Reconciled

    nothing = Reconciled(expired=0, notified=0, finished=0)
    vars(worker.processes.timers)["reconcile_once"] = lambda *_: nothing


def without_token() -> None:
    """A worker that once held a batch may write to it, and is told that it still holds it."""
    from scanfleet.db.scans import batches
    from scanfleet.db.scans.batches import LeaseState
    from scanfleet.db.tables import Batch

    def touch(connection: sa.Connection, held: Any, **values: Any) -> None:
        connection.execute(sa.update(Batch).where(Batch.id == held.batch_id).values(values))

    def lease_states(_: sa.Connection, claims: Sequence[Any]) -> dict[int, LeaseState]:
        return {held.batch_id: LeaseState.HELD for held in claims}

    vars(batches).update(_touch=touch, lease_states=lease_states)


def without_guard() -> None:
    """kombu ignores failed acknowledgements, as it does without the patch."""
    from worker.consumer import ack_patch

    ack_patch.install = lambda: None


PARTS = {"reconciler": without_reconciler, "token": without_token, "guard": without_guard}


def main() -> None:
    from worker.__main__ import main as work

    PARTS[sys.argv.pop(1)]()
    work()


if __name__ == "__main__":
    main()
