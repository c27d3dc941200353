"""The life of a batch in a worker: claim, score, one writing transaction. The message is acknowledged after that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import sqlalchemy as sa
import structlog

from scanfleet.errors import DatabaseUnavailable, LeaseLost, Retryable
from scanfleet.store import batches, verdicts
from scanfleet.store.batches import ClaimedImage
from scanfleet.store.engine import reading, transaction
from scanfleet.store.verdicts import Known, Outcome
from worker.batch import Aborted, BatchRun, Stages
from worker.gathering import Gathered, storable
from worker.leases import Lease, Leases
from worker.scorers import Resolved, Scorers
from worker.stop import Stop
from worker.timing import Stopwatch, Totals

log = structlog.get_logger()

MAX_PAUSE_SECONDS = 5.0  # between two tries to reach the database
T = TypeVar("T")


class Pipeline:
    """`run` may be called from several threads: each call takes one batch through its life."""

    def __init__(
        self, *, engine: sa.Engine, queue: str, scorers: Scorers, stages: Stages, leases: Leases, stop: Stop
    ) -> None:
        self.totals = Totals()
        self._lock = threading.Lock()
        self._n_taken = 0
        self._n_active = 0
        self.leases = leases
        self._engine = engine
        self._queue = queue
        self._scorers = scorers
        self._stages = stages
        self._stop = stop

    def run(self, rung: int | None) -> None:
        """Take the batch that was rung for, or another. Never raises for anything that can befall a batch."""
        if self._stop.draining:
            self._pass_on(rung)
            return
        deadline = time.monotonic() + self._stages.settings.lease_seconds
        try:
            lease = self._persist(lambda: self.leases.claim(queue=self._queue, rung=rung), until=lambda: deadline)
        except DatabaseUnavailable as error:
            log.warning("claim_failed", batch=rung, error=str(error))  # the batch is ready still and is rung again
            return
        if lease is None:
            return
        with self._lock:
            self._n_taken += 1
            self._n_active += 1
        try:
            self._attempt(lease)
        except Exception as error:
            # A bug. The batch goes back to wait for a version without it; its images are not at fault.
            log.exception("batch_crashed", batch=lease.claim.batch_id)
            self._wait(lease, f"unexpected {type(error).__name__}: see the worker's log")
        finally:
            self._stop.unlisten(lease)
            self.leases.release(lease)
            with self._lock:
                self._n_active -= 1

    @property
    def n_taken(self) -> int:
        """Batches claimed since the start."""
        return self._n_taken

    @property
    def n_active(self) -> int:
        """Batches under way."""
        return self._n_active

    def _attempt(self, lease: Lease) -> None:
        try:
            outcome = self._score(lease)
        except Aborted as aborted:
            if not lease.ended:
                self._give_back(lease, str(aborted))
        except Retryable as error:
            self._wait(lease, storable(str(error)))
        else:
            self._write(lease, outcome)

    def _score(self, lease: Lease) -> Outcome:
        """Raises Aborted, Retryable."""
        claim = lease.claim
        resolved = self._persist(lambda: self._scorers.resolve(claim.check_id), until=lambda: lease.deadline)
        gathered, watch = Gathered(resolved), Stopwatch()
        unseen = self._reuse(resolved, claim.images, gathered)
        run = BatchRun(
            images=unseen,
            attempt=claim.attempts,
            resolved=resolved,
            stages=self._stages,
            gathered=gathered,
            watch=watch,
        )
        lease.on_lost = lambda: run.abort("the lease is lost")
        self._stop.listen(lease, lambda: run.abort("the worker is stopping"))
        if lease.ended:
            raise Aborted("the lease is lost")
        run.run()
        return gathered.outcome(watch)

    def _reuse(self, resolved: Resolved, images: Collection[ClaimedImage], gathered: Gathered) -> list[ClaimedImage]:
        """Take over what this scorer said of the same listed versions; return the other images."""
        identities = [image.identity for image in images if image.etag is not None]
        with reading(self._engine) as connection:
            known = verdicts.known_by_identity(connection, resolved.scorer_id, identities)
        for image in images:
            if image.identity in known:
                gathered.taken_over(image, known[image.identity])
        return [image for image in images if image.identity not in known]

    def _write(self, lease: Lease, outcome: Outcome) -> None:
        start = time.perf_counter()
        if self._end(lease, lambda connection: verdicts.write(connection, lease.claim, outcome)):
            # A transaction cannot hold its own duration: it is in the log and in the worker's totals.
            write_seconds = round(time.perf_counter() - start, 4)
            seconds = {**outcome.seconds, "write": write_seconds}
            self.totals.add(n_images=len(outcome.verdicts) + len(outcome.failures), seconds=seconds)
            log.info(
                "batch_written",
                batch=lease.claim.batch_id,
                scan=lease.claim.scan_id,
                verdicts=len(outcome.verdicts),
                failures=len(outcome.failures),
                waiting_for=outcome.waiting_for,
                **{f"{stage}_seconds": round(value, 2) for stage, value in seconds.items()},
            )

    def _wait(self, lease: Lease, why: str) -> None:
        """Put the whole batch back, with a back-off, saying what it waits for."""
        log.warning("batch_waits", batch=lease.claim.batch_id, waiting_for=why)
        self._end(lease, lambda connection: batches.settle(connection, lease.claim, values={}, waiting_for=why))

    def _give_back(self, lease: Lease, why: str) -> None:
        if self._end(lease, lambda connection: batches.give_back(connection, lease.claim)):
            log.info("batch_given_back", batch=lease.claim.batch_id, why=why)

    def _end(self, lease: Lease, write: Callable[[sa.Connection], None]) -> bool:
        """Run the transaction that ends a lease. False: the lease was lost, or the database stayed away too long."""

        def attempt() -> None:
            with lease.lock:
                if lease.ended:
                    raise LeaseLost("found out by the heartbeat")
                with transaction(self._engine) as connection:
                    write(connection)
                lease.ended = True

        try:
            self._persist(attempt, until=lambda: lease.deadline)
        except LeaseLost:
            log.warning("late_result_dropped", batch=lease.claim.batch_id, token=lease.claim.token)
            return False
        except DatabaseUnavailable as error:
            log.warning("result_dropped", batch=lease.claim.batch_id, error=str(error))
            return False
        return True

    def _persist(self, call: Callable[[], T], *, until: Callable[[], float]) -> T:
        """Call again, with growing pauses, while the database is away and `until` (time.monotonic()) lies ahead."""
        pause = 0.1
        while True:
            try:
                return call()
            except DatabaseUnavailable as error:
                if time.monotonic() + pause >= until() or self._stop.wait_hand_back(pause):
                    raise
                log.warning("database_away", error=str(error), retry_seconds=pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _pass_on(self, rung: int | None) -> None:
        """A knock that came while stopping: let the reconcilers knock elsewhere, without their usual patience."""
        if rung is None:
            return
        try:
            with transaction(self._engine) as connection:
                batches.mark_rung(connection, [rung], at=None)
        except DatabaseUnavailable as error:
            log.warning("knock_dropped", batch=rung, error=str(error))


def look_up_content(engine: sa.Engine) -> Callable[[int, Collection[str]], Mapping[str, Known]]:
    """The ledger's answer to "has this scorer seen these bytes?"."""

    def look_up(scorer_id: int, hashes: Collection[str]) -> Mapping[str, Known]:
        if not hashes:
            return {}
        with reading(engine) as connection:
            return verdicts.known_by_content(connection, scorer_id, hashes)

    return look_up
