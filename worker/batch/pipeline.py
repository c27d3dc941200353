"""The life of a batch in a worker: claim, score, commit. The message is acknowledged after that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import sqlalchemy as sa
import structlog

from scanfleet.db.engine import transaction
from scanfleet.db.scans import notifications
from scanfleet.db.scans.batches import Claim, ClaimedImage
from scanfleet.errors import DatabaseUnavailable, DeviceUnavailable, LedgerReplaced, Retryable
from scanfleet.redaction import storable
from scanfleet.worker.batch.attempt import Aborted, BatchRun
from scanfleet.worker.batch.commit import BatchWriter
from scanfleet.worker.batch.context import WorkerContext
from scanfleet.worker.batch.isolation import IsolationLock, run_suspect
from scanfleet.worker.batch.leases import Lease, Leases
from scanfleet.worker.batch.passes import known
from scanfleet.worker.batch.passes.readings import PassReadings
from scanfleet.worker.batch.passes.siblings import Passes
from scanfleet.worker.batch.refused_objects import RefusedObjects
from scanfleet.worker.batch.results import BatchResults
from scanfleet.worker.batch.timing import LEFT_OVER, Stopwatch, Totals
from scanfleet.worker.runtime.circuit_breaker import Breaker
from scanfleet.worker.runtime.retry import retry_until
from scanfleet.worker.runtime.shutdown import Stop
from scanfleet.worker.scoring.champions import ScorerCache
from scanfleet.worker.scoring.crop_selection import Allowance
from scanfleet.worker.scoring.factory import Resolved

log = structlog.get_logger()

SCORER_SECONDS = 600.0  # to fetch, load and try a new adapter


class Pipeline:
    """Runs batches. `run` may be called from several threads; each call runs one batch."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        model: str,
        scorers: ScorerCache,
        passes: Passes,
        context: WorkerContext,
        leases: Leases,
        stop: Stop,
    ) -> None:
        self.totals = Totals(context.device.occupancy, n_threads=context.settings.fetch_threads)
        self._lock = threading.Lock()
        self._n_taken = 0
        self._n_active = 0
        self.leases = leases
        self._engine = engine
        self._model = model
        self._scorers = scorers
        self._passes = passes
        self._context = context
        self._stop = stop
        self._isolation = IsolationLock()
        self._breaker = Breaker()
        self._refused_objects = RefusedObjects(engine, context)
        self._writer = BatchWriter(engine, stop, self.totals)

    def run(self, notified: int | None) -> None:
        """Run the notified batch, or another one, and then those of its pass that hold the same images.

        Errors of a batch are written or logged, never raised.
        """
        if self._stop.draining or self._stop.wait_draining(self.seconds_paused):
            self._return_notification(notified)
            return
        readings = PassReadings()
        self._claim_and_run(notified, readings)
        for batch_id in readings.take_batches():
            if self._stop.wait_draining(0.0) or (self.seconds_paused and not readings.any):
                return
            self._claim_and_run(batch_id, readings, only=True)

    def _claim_and_run(self, notified: int | None, readings: PassReadings, *, only: bool = False) -> None:
        deadline = time.monotonic() + self._context.settings.lease_seconds
        claim = partial(self.leases.claim, model=self._model, notified=notified, only=only)
        try:
            lease = retry_until(claim, until=lambda: deadline, stop=self._stop)
        except DatabaseUnavailable as error:
            # The batch is still ready, and the reconcilers notify a worker of it again.
            log.warning("claim_failed", batch=notified, error=str(error))
            return
        if lease is None:
            return
        with self._lock:
            self._n_taken += 1
            self._n_active += 1
        # What is logged in this thread names them; stages and the device work for several batches at once.
        about = {"scan": lease.claim.scan_id, "batch": lease.claim.batch_id}
        try:
            with structlog.contextvars.bound_contextvars(**about):
                self._attempt(lease, readings)
        except Exception as error:
            # A bug. The batch waits for a version without it, and its images are not counted as failures.
            log.exception("batch_crashed", batch=lease.claim.batch_id)
            self._writer.defer(lease, f"unexpected {type(error).__name__}: see the worker's log")
        finally:
            self._stop.unlisten(lease)
            self.leases.release(lease)
            with self._lock:
                self._n_active -= 1

    @property
    def n_taken(self) -> int:
        """The number of batches claimed since the start."""
        return self._n_taken

    @property
    def n_active(self) -> int:
        """The number of batches under way."""
        return self._n_active

    @property
    def seconds_paused(self) -> float:
        """Seconds until batches are claimed again after an error of the model or the device."""
        return self._breaker.seconds_left

    def _attempt(self, lease: Lease, readings: PassReadings) -> None:
        self._on_abort(lease, lambda _: self._isolation.wake())
        enter = self._isolation.alone if lease.claim.suspect else self._isolation.together
        try:
            with enter(given_up=lambda: lease.unwanted or self._stop.handing_back):
                self._score(lease, readings)
        except Aborted as aborted:
            if not lease.ended:
                self._writer.hand_back(lease, None, reason=str(aborted))
        except Retryable as error:
            if isinstance(error, DeviceUnavailable):
                self._breaker.trip(str(error))
            self._writer.defer(lease, storable(str(error)))

    def _on_abort(self, lease: Lease, abort: Callable[[str], None]) -> None:
        """Call `abort` when the lease ends or the worker stops."""
        lease.abort = abort
        self._stop.listen(lease, lambda: abort("the worker is stopping"))
        if lease.unwanted:
            abort("the lease is lost")

    def _score(self, lease: Lease, readings: PassReadings) -> None:
        """Raises Aborted only before the first result, and Retryable only before the first write."""
        resolved = self._resolve(lease)
        named = structlog.contextvars.bound_contextvars(scorer=resolved.scorer_id, adapter=_adapter(resolved))
        with named, self._context.device.occupancy.batch() as span:
            allowance = _allowance(resolved, lease.claim)
            watch = Stopwatch(span=span, n_threads=self._context.settings.fetch_threads, allowance=allowance)
            try:
                self._score_with(resolved, lease, watch, readings)
            except (LedgerReplaced, sa.exc.IntegrityError):  # rows that it names are gone, or others have their ids
                self._scorers.forget(resolved)
                raise

    def _score_with(self, resolved: Resolved, lease: Lease, watch: Stopwatch, readings: PassReadings) -> None:
        claim, results = lease.claim, BatchResults(resolved)
        unseen = known.add_earlier(self._engine, resolved, claim.images, results)
        unseen = known.add_read(self._context.answers_by_content, claim, unseen, results, readings)
        joined = self._join(resolved, claim, unseen, readings)

        def run(images: Iterable[ClaimedImage], into: BatchResults) -> None:
            batch = BatchRun(
                images=tuple(images),
                attempt=claim.attempts,
                resolved=joined,
                context=self._context,
                results=into,
                watch=watch,
                scan_id=claim.scan_id,
                on_fetched=lambda image, sha256: self._writer.record_content(lease, image, sha256),
                on_read=lambda image, answer: known.keep(readings, joined, image, answer, into),
            )
            self._on_abort(lease, batch.abort)
            batch.run()
            self._update_breaker(into)

        def run_and_settle(images: Iterable[ClaimedImage], into: BatchResults) -> None:
            run(images, into)
            on_abort = partial(self._on_abort, lease)
            self._refused_objects.settle(lease, into, run=lambda again: run(again, into), on_abort=on_abort)

        if claim.suspect and unseen:
            patience = self._context.settings.fetch_threads
            run_suspect(lease, unseen, results, run=run_and_settle, writer=self._writer, watch=watch, patience=patience)
            return
        try:
            run_and_settle(unseen, results)
        except Aborted as aborted:
            if not lease.ended:
                self._writer.hand_back(lease, results.outcome(watch), reason=str(aborted))
            return
        self._writer.write(lease, results.outcome(watch))

    def _join(
        self, resolved: Resolved, claim: Claim, unseen: Sequence[ClaimedImage], readings: PassReadings
    ) -> Resolved:
        ended = self._context.tracker.whole.expect(seconds=SCORER_SECONDS)
        try:
            return self._passes.join(resolved, claim, unseen, readings)
        finally:
            ended()

    def _resolve(self, lease: Lease) -> Resolved:
        ended = self._context.tracker.whole.expect(seconds=SCORER_SECONDS)
        try:
            resolve = partial(self._scorers.resolve, lease.claim.check_id, begun_at=lease.claim.scan_created_at)
            return retry_until(resolve, until=lambda: lease.deadline, stop=self._stop)
        finally:
            ended()

    def _update_breaker(self, results: BatchResults) -> None:
        if results.n_scored:
            self._breaker.reset()
        elif results.device_error is not None:
            self._breaker.trip(results.device_error)

    def _return_notification(self, notified: int | None) -> None:
        """The worker stops: have the reconcilers notify another worker of the batch at once."""
        if notified is None:
            return
        try:
            with transaction(self._engine) as connection:
                notifications.mark_notified(connection, [notified], at=None)
        except DatabaseUnavailable as error:
            log.warning("notification_dropped", batch=notified, error=str(error))


def _allowance(resolved: Resolved, claim: Claim) -> Allowance | None:
    """Return the allowance of the whole batch, even if its images run one by one or in several attempts."""
    if resolved.crop_setup is None:
        return None
    left_over = (claim.seconds or {}).get(LEFT_OVER, 0.0)
    return Allowance(resolved.crop_setup.settings.max_extra, left_over=left_over)


def _adapter(resolved: Resolved) -> str | None:
    """Return the first digits of the digest of the adapter's weights; None: the base alone."""
    digest = resolved.scorer.identity.adapter_sha256
    return None if digest is None else digest[:12]
