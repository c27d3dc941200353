"""The transactions of a held batch: tried again while the database is away, refused when the lease is lost."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa
import structlog

from scanfleet.db.engine import transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import batches, crash_isolation
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.errors import DatabaseUnavailable, LeaseLost
from scanfleet.stats.stage_times import SECONDS
from worker.batch.leases import Lease
from worker.batch.timing import Totals
from worker.runtime.retry import retry_until
from worker.runtime.shutdown import Stop

log = structlog.get_logger()


class BatchWriter:
    """How an attempt at a batch ends in the ledger. Each answers whether it was written."""

    def __init__(self, engine: sa.Engine, stop: Stop, totals: Totals) -> None:
        self._engine = engine
        self._stop = stop
        self._totals = totals

    def write(self, lease: Lease, outcome: Outcome) -> bool:
        """Everything is known, or waits for the world."""
        start = time.perf_counter()
        if not self._commit(lease, lambda connection: verdicts.write(connection, lease.claim, outcome)):
            return False
        self._count("batch_written", lease, outcome, write_seconds=time.perf_counter() - start)
        return True

    def write_part(self, lease: Lease, outcome: Outcome, *, in_hand: int) -> bool:
        """A suspect goes on with its next image."""

        def write(connection: sa.Connection) -> None:
            verdicts.write_part(connection, lease.claim, outcome, in_hand=in_hand)

        return self._commit(lease, write, ends=False)

    def record_content(self, lease: Lease, image: ClaimedImage, sha256: str) -> None:
        """An image that was in hand when a worker ended is about to be tried again: remember its bytes."""
        if image.crashes:
            self._commit(
                lease,
                lambda connection: crash_isolation.record_content(connection, lease.claim, image.id, sha256),
                ends=False,
            )

    def hand_back(self, lease: Lease, outcome: Outcome | None, *, why: str) -> bool:
        """The worker stops, or the scan is paused: keep what is known, return the rest."""

        def write(connection: sa.Connection) -> None:
            if outcome is None:
                batches.give_back(connection, lease.claim, values={})
            else:
                verdicts.hand_back(connection, lease.claim, outcome)

        if not self._commit(lease, write):
            return False
        log.info("batch_given_back", batch=lease.claim.batch_id, why=why)
        if outcome is not None:
            self._count("part_written", lease, outcome, write_seconds=0.0)
        return True

    def wait(self, lease: Lease, why: str) -> bool:
        """Put the whole batch back, with a back-off, saying what it waits for."""
        log.warning("batch_deferred", batch=lease.claim.batch_id, waiting_for=why)
        return self._commit(
            lease, lambda connection: batches.settle(connection, lease.claim, values={}, waiting_for=why)
        )

    def _count(self, event: str, lease: Lease, outcome: Outcome, *, write_seconds: float) -> None:
        # A transaction cannot hold its own duration: it is in the log and in the worker's totals.
        sums = {**outcome.seconds, "write": write_seconds}
        self._totals.add(n_images=len(outcome.verdicts) + len(outcome.failures), sums=sums)
        log.info(
            event,
            batch=lease.claim.batch_id,
            scan=lease.claim.scan_id,
            verdicts=len(outcome.verdicts),
            failures=len(outcome.failures),
            waiting_for=outcome.waiting_for,
            **{f"{name}_seconds": round(sums.get(name, 0.0), 2) for name in SECONDS},
        )

    def _commit(self, lease: Lease, write: Callable[[sa.Connection], None], *, ends: bool = True) -> bool:
        """One transaction under the lease. False: the lease was lost, or the database stayed away too long."""

        def attempt() -> None:
            with lease.lock:
                if lease.ended:
                    raise LeaseLost("found out by the heartbeat")
                asked_at = time.monotonic()
                with transaction(self._engine) as connection:
                    write(connection)
                lease.ended = ends
                if not ends:  # it began anew
                    lease.deadline = asked_at + lease.claim.lease_seconds

        try:
            retry_until(attempt, until=lambda: lease.deadline, stop=self._stop)
        except LeaseLost:
            log.warning("late_result_dropped", batch=lease.claim.batch_id, token=lease.claim.token)
            return False
        except DatabaseUnavailable as error:
            log.warning("result_dropped", batch=lease.claim.batch_id, error=str(error))
            return False
        return True
