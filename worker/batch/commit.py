"""The transactions of a held batch: retried while the database is unavailable, refused when the lease is lost."""

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
from scanfleet.worker.batch.leases import Lease
from scanfleet.worker.batch.timing import Totals
from scanfleet.worker.runtime.retry import retry_until
from scanfleet.worker.runtime.shutdown import Stop

log = structlog.get_logger()


class BatchWriter:
    """Writes the outcome of an attempt to the ledger. Its methods return True if the transaction was committed."""

    def __init__(self, engine: sa.Engine, stop: Stop, totals: Totals) -> None:
        self._engine = engine
        self._stop = stop
        self._totals = totals

    def write(self, lease: Lease, outcome: Outcome) -> bool:
        """Write the batch and end its lease. Images with a transient error stay ready for a later attempt."""
        start = time.perf_counter()
        if not self._commit(lease, lambda connection: verdicts.write(connection, lease.claim, outcome)):
            return False
        self._count("batch_written", lease, outcome, write_seconds=time.perf_counter() - start)
        return True

    def write_part(self, lease: Lease, outcome: Outcome, *, in_hand: int) -> bool:
        """Write results of a suspect batch, and mark its next image as under way. The lease continues."""

        def write(connection: sa.Connection) -> None:
            verdicts.write_part(connection, lease.claim, outcome, in_hand=in_hand)

        return self._commit(lease, write, ends=False)

    def record_content(self, lease: Lease, image: ClaimedImage, sha256: str) -> None:
        """Store the hash of an image that was under way when a worker died, before it is tried again."""
        if image.crashes:
            self._commit(
                lease,
                lambda connection: crash_isolation.record_content(connection, lease.claim, image.id, sha256),
                ends=False,
            )

    def hand_back(self, lease: Lease, outcome: Outcome | None, *, reason: str) -> bool:
        """The worker stops, or the scan is paused: write the results so far, and return the rest of the batch."""

        def write(connection: sa.Connection) -> None:
            if outcome is None:
                batches.give_back(connection, lease.claim, values={})
            else:
                verdicts.hand_back(connection, lease.claim, outcome)

        if not self._commit(lease, write):
            return False
        log.info("batch_given_back", batch=lease.claim.batch_id, reason=reason)
        if outcome is not None:
            self._count("part_written", lease, outcome, write_seconds=0.0)
        return True

    def defer(self, lease: Lease, reason: str) -> bool:
        """Put the whole batch back with a back-off. reason: what it waits for."""
        log.warning("batch_deferred", batch=lease.claim.batch_id, waiting_for=reason)
        return self._commit(
            lease, lambda connection: batches.settle(connection, lease.claim, values={}, waiting_for=reason)
        )

    def _count(self, event: str, lease: Lease, outcome: Outcome, *, write_seconds: float) -> None:
        # A transaction cannot store its own duration, so it goes to the log and to the worker's totals.
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

    def _commit(self, lease: Lease, write: Callable[[sa.Connection], object], *, ends: bool = True) -> bool:
        """Run one transaction. False: the lease was lost, or the database was unavailable until its end."""

        def attempt() -> None:
            with lease.lock:
                if lease.ended:
                    raise LeaseLost("the heartbeat found the lease lost")
                asked_at = time.monotonic()
                with transaction(self._engine) as connection:
                    write(connection)
                lease.ended = ends
                if not ends:  # the transaction has extended it
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
