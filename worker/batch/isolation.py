"""Suspect batches, whose last worker died: one image at a time, with a mark in the ledger for the one under way.

A suspect batch has the whole process to itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import structlog

from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.worker.batch.attempt import Aborted
from scanfleet.worker.batch.commit import BatchWriter
from scanfleet.worker.batch.leases import Lease
from scanfleet.worker.batch.results import BatchResults
from scanfleet.worker.batch.timing import Stopwatch


class IsolationLock:
    """Many batches may be inside together, or one alone. A batch that waits to be alone precedes all later ones."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._waiting_alone = 0

    def wake(self) -> None:
        """Make all waiting threads call their `given_up` again."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def together(self, *, given_up: Callable[[], bool]) -> Iterator[None]:
        """Raises Aborted if `given_up` becomes true (and `wake` is called) before the gate opens."""
        with self._changed:
            self._changed.wait_for(lambda: given_up() or not (self._alone or self._waiting_alone))
            if given_up():
                raise Aborted("the batch was given up while it waited")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, *, given_up: Callable[[], bool]) -> Iterator[None]:
        """Raises Aborted as `together` does."""
        with self._changed:
            self._waiting_alone += 1
            try:
                self._changed.wait_for(lambda: given_up() or not (self._alone or self._inside))
                if given_up():
                    raise Aborted("the batch was given up while it waited")
                self._alone = True
            finally:
                self._waiting_alone -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


log = structlog.get_logger()


def run_suspect(
    lease: Lease,
    images: Sequence[ClaimedImage],
    results: BatchResults,
    *,
    run: Callable[[Sequence[ClaimedImage], BatchResults], None],
    writer: BatchWriter,
    watch: Stopwatch,
    patience: int,
) -> None:
    """Run each image alone: mark it in the ledger, score it with `run`, write it together with the mark of the next.

    results: the earlier answers. patience: consecutive images that may meet a transient error before the others are
    left to a later attempt.
    """
    log.info("suspect_started", batch=lease.claim.batch_id, images=len(images))
    outcome = results.outcome(watch)
    waiting_for: str | None = None
    n_waiting = 0
    for image in images:
        if not writer.write_part(lease, outcome, in_hand=image.id):
            return
        single = results.empty_copy()
        try:
            run([image], single)
        except Aborted as aborted:
            if not lease.ended:
                writer.hand_back(lease, single.outcome(watch), reason=str(aborted))
            return
        outcome = single.outcome(watch)
        waiting_for = outcome.waiting_for or waiting_for
        n_waiting = n_waiting + 1 if outcome.waiting_for else 0
        if n_waiting >= patience:
            break
    writer.write(lease, replace(outcome, waiting_for=waiting_for))
