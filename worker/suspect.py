"""A batch whose last worker died, run so that the ledger always knows which image is in hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from scanfleet.store.batches import ClaimedImage
from worker.batch import Aborted
from worker.ending import Endings
from worker.gathering import Gathered
from worker.leases import Lease
from worker.timing import Stopwatch

log = structlog.get_logger()


def run_suspect(
    lease: Lease,
    images: Sequence[ClaimedImage],
    gathered: Gathered,
    *,
    run: Callable[[Sequence[ClaimedImage], Gathered], None],
    endings: Endings,
    watch: Stopwatch,
    patience: int,
) -> None:
    """Each image by itself: marked in the ledger, scored by `run`, written together with the mark of the next one.

    `gathered` holds what is known without scoring. `patience`: images in a row that may meet a failure of the world
    before the others are left to a later attempt.
    """
    log.info("suspect_started", batch=lease.claim.batch_id, images=len(images))
    known = gathered.outcome(watch)
    waiting_for: str | None = None
    n_waiting = 0
    for image in images:
        if not endings.write_part(lease, known, in_hand=image.id):
            return
        one = gathered.anew()
        try:
            run([image], one)
        except Aborted as aborted:
            if not lease.ended:
                endings.hand_back(lease, one.outcome(watch), why=str(aborted))
            return
        known = one.outcome(watch)
        waiting_for = known.waiting_for or waiting_for
        n_waiting = n_waiting + 1 if known.waiting_for else 0
        if n_waiting >= patience:
            break
    endings.write(lease, replace(known, waiting_for=waiting_for))
