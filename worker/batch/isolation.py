"""A batch whose last worker died, run so that the ledger always knows which image is in hand.

Lets a suspect batch have the whole process to itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import structlog

from scanfleet.db.scans.batches import ClaimedImage
from worker.batch.attempt import Aborted
from worker.batch.commit import BatchWriter
from worker.batch.leases import Lease
from worker.batch.results import BatchResults
from worker.batch.timing import Stopwatch


class Gate:
    """Many may be inside together, or one alone. Who waits to be alone goes before those who come after it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._waiting_alone = 0

    def wake(self) -> None:
        """Have those who wait ask again whether they still want to."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def together(self, *, given_up: Callable[[], bool]) -> Iterator[None]:
        """Raises Aborted when `given_up` becomes true (and `wake` is called) before there is room."""
        with self._changed:
            self._changed.wait_for(lambda: given_up() or not (self._alone or self._waiting_alone))
            if given_up():
                raise Aborted("not wanted any more")
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
                    raise Aborted("not wanted any more")
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
    """Each image by itself: marked in the ledger, scored by `run`, written together with the mark of the next one.

    `gathered` holds what is known without scoring. `patience`: images in a row that may meet a failure of the world
    before the others are left to a later attempt.
    """
    log.info("suspect_started", batch=lease.claim.batch_id, images=len(images))
    known = results.outcome(watch)
    waiting_for: str | None = None
    n_waiting = 0
    for image in images:
        if not writer.write_part(lease, known, in_hand=image.id):
            return
        one = results.anew()
        try:
            run([image], one)
        except Aborted as aborted:
            if not lease.ended:
                writer.hand_back(lease, one.outcome(watch), why=str(aborted))
            return
        known = one.outcome(watch)
        waiting_for = known.waiting_for or waiting_for
        n_waiting = n_waiting + 1 if known.waiting_for else 0
        if n_waiting >= patience:
            break
    writer.write(lease, replace(known, waiting_for=waiting_for))
