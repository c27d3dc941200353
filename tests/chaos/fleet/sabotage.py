"""Negative controls: a worker with a part of its protection removed. `python -m tests.chaos.fleet.sabotage PART score`.

A chaos run that cannot tell such a fleet from a whole one proves nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa


def without_reconciler() -> None:
    """Expired leases and lost messages are never recovered."""
    from scanfleet.reconcile import Reconciled, Reconciler

    type.__setattr__(Reconciler, "check", lambda _: Reconciled())


def without_token() -> None:
    """A worker that once held a batch may write to it, and is told that it still holds it."""
    from scanfleet.db import leases
    from scanfleet.db.scans import batches
    from scanfleet.db.scans.batches import LeaseState

    holding = leases._held

    def held(table: Any, same: Any) -> list[sa.ColumnElement[bool]]:
        row, *rest = holding(table, same)
        return [row, sa.or_(row, *rest)]

    def lease_states(_: sa.Connection, claims: Sequence[Any]) -> dict[int, LeaseState]:
        return {held.batch_id: LeaseState.HELD for held in claims}

    vars(leases)["_held"] = held
    vars(batches)["lease_states"] = lease_states


def without_guard() -> None:
    """kombu ignores failed acknowledgements, as it does without the patch."""
    from scanfleet.worker.consumer import ack_patch

    ack_patch.install = lambda: None


def without_scorer_identity() -> None:
    """A worker takes the row ids of check and scorer that it keeps in memory for those of the database."""
    from scanfleet.db.results import verdicts
    from scanfleet.worker.scoring.factory import Wanted

    vars(verdicts)["require_scorer"] = lambda *_, **__: None
    type.__setattr__(Wanted, "key", property(lambda wanted: wanted.spec.key))


def without_model_check() -> None:
    """Nobody compares the scan's model with the worker's: the name of a queue decides."""
    from scanfleet.db import leases
    from scanfleet.db.clock import backoff_over
    from scanfleet.db.scans import batches
    from scanfleet.db.tables import Batch, Scan

    def claimable(_: str, at: datetime) -> sa.ColumnElement[bool]:
        return sa.and_(leases.claimable(Batch, at), Scan.state == "running", backoff_over(Scan.not_before, at))

    vars(batches)["_claimable"] = claimable


PARTS = {
    "reconciler": without_reconciler,
    "token": without_token,
    "guard": without_guard,
    "scorer-identity": without_scorer_identity,
    "model-check": without_model_check,
}


def main() -> None:
    from scanfleet.worker.__main__ import main as work

    PARTS[sys.argv.pop(1)]()
    work()


if __name__ == "__main__":
    main()
