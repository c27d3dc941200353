"""The life of a batch in a worker: claim, score, one writing transaction. The message is acknowledged after that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping

import sqlalchemy as sa
import structlog

from scanfleet.db.engine import reading, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.verdicts import Known
from scanfleet.db.scans import crash_isolation, notifications
from scanfleet.db.scans.batches import Claim, ClaimedImage
from scanfleet.errors import DatabaseUnavailable, DeviceUnavailable, ImageError, Retryable
from scanfleet.redaction import storable
from worker.batch.attempt import Aborted, BatchRun
from worker.batch.commit import BatchWriter
from worker.batch.isolation import Gate, run_suspect
from worker.batch.leases import Lease, Leases
from worker.batch.results import BatchResults
from worker.batch.stages import AnswersByContent, ScanBytes, Stages
from worker.batch.timing import LEFT_OVER, Stopwatch, Totals
from worker.runtime.circuit_breaker import Breaker
from worker.runtime.retry import retry_until
from worker.runtime.shutdown import Stop
from worker.scoring.champions import ScorerCache
from worker.scoring.crop_gate import Allowance
from worker.scoring.factory import Resolved

log = structlog.get_logger()

SCORER_SECONDS = 600.0  # that a new adapter may take to be fetched, loaded and tried


class Pipeline:
    """`run` may be called from several threads: each call takes one batch through its life."""

    def __init__(
        self, *, engine: sa.Engine, queue: str, scorers: ScorerCache, stages: Stages, leases: Leases, stop: Stop
    ) -> None:
        self.totals = Totals(stages.device.occupancy, n_threads=stages.settings.fetch_threads)
        self._lock = threading.Lock()
        self._n_taken = 0
        self._n_active = 0
        self.leases = leases
        self._engine = engine
        self._queue = queue
        self._scorers = scorers
        self._stages = stages
        self._stop = stop
        self._gate = Gate()
        self._breaker = Breaker()
        self._writer = BatchWriter(engine, stop, self.totals)

    def run(self, notified: int | None) -> None:
        """Take the batch that was rung for, or another. Never raises for anything that can befall a batch."""
        if self._stop.draining or self._stop.wait_draining(self.seconds_paused):
            self._pass_on(notified)
            return
        deadline = time.monotonic() + self._stages.settings.lease_seconds
        try:
            lease = retry_until(
                lambda: self.leases.claim(queue=self._queue, notified=notified), until=lambda: deadline, stop=self._stop
            )
        except DatabaseUnavailable as error:
            log.warning("claim_failed", batch=notified, error=str(error))  # the batch is ready still and is rung again
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
            self._writer.wait(lease, f"unexpected {type(error).__name__}: see the worker's log")
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

    @property
    def seconds_paused(self) -> float:
        """How long no batch is taken, because the model or the device had trouble."""
        return self._breaker.seconds_left

    def _attempt(self, lease: Lease) -> None:
        self._on_abort(lease, lambda _: self._gate.wake())
        enter = self._gate.alone if lease.claim.suspect else self._gate.together
        try:
            with enter(given_up=lambda: lease.unwanted or self._stop.handing_back):
                self._score(lease)
        except Aborted as aborted:
            if not lease.ended:
                self._writer.hand_back(lease, None, why=str(aborted))
        except Retryable as error:
            if isinstance(error, DeviceUnavailable):
                self._breaker.trip(str(error))
            self._writer.wait(lease, storable(str(error)))

    def _on_abort(self, lease: Lease, abort: Callable[[str], None]) -> None:
        """Have the lease's end and the worker's call `abort`."""
        lease.abort = abort
        self._stop.listen(lease, lambda: abort("the worker is stopping"))
        if lease.unwanted:
            abort("the lease is lost")

    def _score(self, lease: Lease) -> None:
        """Raises Retryable before anything is known, Aborted likewise."""
        resolved = self._resolve(lease)
        with self._stages.device.occupancy.batch() as span:
            allowance = _allowance(resolved, lease.claim)
            watch = Stopwatch(span=span, n_threads=self._stages.settings.fetch_threads, allowance=allowance)
            self._score_with(resolved, lease, watch)

    def _score_with(self, resolved: Resolved, lease: Lease, watch: Stopwatch) -> None:
        claim, results = lease.claim, BatchResults(resolved)
        unseen = self._reuse(resolved, claim.images, results)

        def run(images: Iterable[ClaimedImage], into: BatchResults) -> None:
            batch = BatchRun(
                images=tuple(images),
                attempt=claim.attempts,
                resolved=resolved,
                stages=self._stages,
                results=into,
                watch=watch,
                scan_id=claim.scan_id,
                on_fetched=lambda image, sha256: self._writer.record_content(lease, image, sha256),
                allowance=watch.allowance,
            )
            self._on_abort(lease, batch.abort)
            batch.run()
            self._judge_device(into)

        if claim.suspect and unseen:
            patience = self._stages.settings.fetch_threads
            run_suspect(lease, unseen, results, run=run, writer=self._writer, watch=watch, patience=patience)
            return
        try:
            run(unseen, results)
        except Aborted as aborted:
            if not lease.ended:
                self._writer.hand_back(lease, results.outcome(watch), why=str(aborted))
            return
        self._writer.write(lease, results.outcome(watch))

    def _resolve(self, lease: Lease) -> Resolved:
        ended = self._stages.tracker.whole.expect(seconds=SCORER_SECONDS)
        try:
            check_id = lease.claim.check_id
            return retry_until(lambda: self._scorers.resolve(check_id), until=lambda: lease.deadline, stop=self._stop)
        finally:
            ended()

    def _judge_device(self, results: BatchResults) -> None:
        if results.n_scored:
            self._breaker.reset()
        elif results.device_trouble is not None:
            self._breaker.trip(results.device_trouble)

    def _reuse(self, resolved: Resolved, images: Collection[ClaimedImage], results: BatchResults) -> list[ClaimedImage]:
        """Take over what this scorer said of the same listed versions; return the other images."""
        identities = [image.identity for image in images if image.etag is not None]
        with reading(self._engine) as connection:
            known = verdicts.answers_by_identity(connection, resolved.scorer_id, identities)
        for image in images:
            if image.identity in known:
                results.taken_over(image, known[image.identity])
        return [image for image in images if image.identity not in known]

    def _pass_on(self, notified: int | None) -> None:
        """A knock that came while stopping: let the reconcilers knock elsewhere, without their usual patience."""
        if notified is None:
            return
        try:
            with transaction(self._engine) as connection:
                notifications.mark_notified(connection, [notified], at=None)
        except DatabaseUnavailable as error:
            log.warning("notification_dropped", batch=notified, error=str(error))


def _allowance(resolved: Resolved, claim: Claim) -> Allowance | None:
    """Of the whole batch, also where its images are run one by one, or in several attempts."""
    if resolved.crop_setup is None:
        return None
    left_over = (claim.seconds or {}).get(LEFT_OVER, 0.0)
    return Allowance(resolved.crop_setup.settings.max_extra, left_over=left_over)


def look_up_content(engine: sa.Engine) -> AnswersByContent:
    """The ledger's answer to "what is known of these bytes?"."""

    def look_up(asked: ScanBytes) -> Mapping[str, Known | ImageError]:
        if not asked.hashes:
            return {}
        with reading(engine) as connection:
            seen = verdicts.answers_by_content(connection, asked.scorer_id, asked.hashes)
            lethal = crash_isolation.lethal_content(connection, asked.scan_id, asked.hashes)
        return {**lethal, **seen}

    return look_up
