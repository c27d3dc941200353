"""The batches that this process holds, and the heartbeat that extends their leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
import structlog

from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans import batches
from scanfleet.db.scans.batches import Claim, LeaseState
from scanfleet.errors import LeaseLost

log = structlog.get_logger()


class Lease:
    """A held batch. `lock` keeps the heartbeat out of the transaction that ends the batch."""

    def __init__(self, claim: Claim, *, deadline: float) -> None:
        self.claim = claim
        self.deadline = deadline  # time.monotonic() until which the lease is certainly held
        self.lock = threading.Lock()
        self.ended = False  # written, handed back or lost
        self.paused = False  # the scan is paused: hand the batch back
        self.abort: Callable[[str], None] = lambda _: None  # ends the work on it, from any thread

    @property
    def unwanted(self) -> bool:
        return self.ended or self.paused

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.deadline


class Leases:
    def __init__(self, engine: sa.Engine, *, worker: str, lease_seconds: float) -> None:
        self._engine = engine
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._held: set[Lease] = set()

    def claim(self, *, model: str, notified: int | None, only: bool = False) -> Lease | None:
        """Lease the notified batch, or another of the model; None when there is none. Raises DatabaseUnavailable.

        only: no other one.
        """
        asked_at = time.monotonic()  # before the database's clock, so that our deadline is never later than its own
        with transaction(self._engine) as connection:
            claim = batches.claim(
                connection,
                model=model,
                worker=self._worker,
                lease_seconds=self._lease_seconds,
                notified=notified,
                only=only,
            )
        if claim is None:
            return None
        lease = Lease(claim, deadline=asked_at + self._lease_seconds)
        with self._lock:
            self._held.add(lease)
        return lease

    def release(self, lease: Lease) -> None:
        """Drop a batch that has ended, whatever its outcome."""
        lease.ended = True
        with self._lock:
            self._held.discard(lease)

    def beat(self) -> None:
        """Extend every held lease, and abort the batches whose lease is lost. Raises DatabaseUnavailable."""
        with self._lock:
            held = list(self._held)
        for lease in held:
            with lease.lock:
                if not lease.ended:
                    self._extend(lease)

    def check_scans(self) -> None:
        """Abort the batches of cancelled scans, and hand back those of paused scans.

        Raises DatabaseUnavailable.
        """
        with self._lock:
            held = {lease.claim.batch_id: lease for lease in self._held if not lease.unwanted}
        if not held:
            return
        with reading(self._engine) as connection:
            states = batches.lease_states(connection, [lease.claim for lease in held.values()])
        for batch_id, state in states.items():
            lease = held[batch_id]
            with lease.lock:
                if lease.unwanted:
                    continue
                if state is LeaseState.LOST:
                    self._lose(lease)
                elif state is LeaseState.PAUSED:
                    lease.paused = True
                    lease.abort("the scan is paused")

    def _lose(self, lease: Lease) -> None:
        """The scan was cancelled, or this process was suspended for longer than its lease."""
        log.warning("lease_lost", batch=lease.claim.batch_id, token=lease.claim.token)
        lease.ended = True
        lease.abort("the lease is lost")

    def _extend(self, lease: Lease) -> None:
        asked_at = time.monotonic()
        try:
            with transaction(self._engine) as connection:
                batches.extend(connection, lease.claim, lease_seconds=self._lease_seconds)
        except LeaseLost:
            self._lose(lease)
        else:
            lease.deadline = asked_at + self._lease_seconds
