"""The whole simulation: producer, people and workers, in time, with a broker and a reconciler."""

from __future__ import annotations

import enum
from collections import Counter
from copy import deepcopy
from itertools import cycle
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import transaction
from scanfleet.db.scans import crash_isolation, notifications, scans
from tests.ledger_machine.fleet import Fleet
from tests.ledger_machine.ground import WORKERS
from tests.ledger_machine.ledger import Backup, dump, read, restore, shift
from tests.ledger_machine.moments import MAX_NOTIFICATIONS, RENOTIFY, Span
from tests.ledger_machine.workers import Answer

HOUR = 3600.0


class Fate(enum.Enum):
    """What the broker does with a notification."""

    DELIVERED = "delivered"
    LOST = "lost"
    DOUBLED = "doubled"
    AWAY = "away"  # it raises an error


class Simulation(Fleet):
    _backup: tuple[Backup, Any] | None = None

    def pass_time(self, seconds: float, *, silent: bool) -> None:
        """Let time pass. silent: without heartbeats, as if all workers were frozen, or the clock jumped."""
        shift(self._engine, seconds)
        self.model.shifted(seconds)
        for worker, mine in self._held.items():
            busy_alone = any(held.in_hand for held in mine)
            if not silent or (busy_alone and not self._kills):
                self.beat(worker)
            else:
                self._give_up(mine)

    def reconcile(self, fate: Fate) -> None:
        """Run one round of scanfleet.reconcile, with a broker that behaves as `fate` says."""

        def one_round(connection: sa.Connection) -> tuple[crash_isolation.Expired, list[int]]:
            expired = crash_isolation.expire_leases(connection)
            scans.finish_all_complete(connection)
            found = notifications.due_for_notification(
                connection, renotify_seconds=RENOTIFY, max_outstanding=MAX_NOTIFICATIONS
            )
            return expired, [batch_id for batch_id, _ in found]

        (expired, notified), at = self._do(one_round)
        overdue = self.model.overdue(at.lo)
        self._expect(expired.n == len(overdue), f"{expired.n} leases expired, not {overdue}")
        quarantined = self.model.expired(overdue, at)
        self._expect(list(expired.quarantined) == quarantined, f"quarantined {expired.quarantined}, not {quarantined}")
        for scan_id in self.scan_ids:
            self.model.finish(scan_id)
        self._check_notified(notified, at)
        self.model.notified(notified, at)
        if fate is Fate.AWAY:
            self._do(lambda connection: notifications.mark_notified(connection, notified, at=None))
            self.model.notified(notified, None)
        self._notifications += notified * {Fate.DELIVERED: 1, Fate.DOUBLED: 2}.get(fate, 0)

    def _check_notified(self, notified: list[int], at: Span) -> None:
        (free, probes), later = (self.model.next_notifications(moment) for moment in self._moments(at))
        if (free, probes) != later:
            return  # something became due meanwhile
        found, probed = notified[: len(free)], notified[len(free) :]
        right = found == free and len(probed) == len(probes)
        right = right and all(any(batch_id in choice for batch_id in probed) for choice in probes)
        self._expect(right, f"notified {notified}, not for {free} and one of each of {probes}")

    def back_up(self) -> None:
        self._backup = (dump(self._engine), deepcopy((self.model, self._listed, self.poison)))

    def restore(self) -> None:
        """Bring back the backup under live workers, which keep their claims: ids and tokens repeat.

        A worker that ended since may be the owner of a lease again. Where it had an image in hand, that is blamed.
        """
        if self._backup is None:
            return
        rows, held = self._backup
        in_hand = [batch.in_hand for batch in held[0].batches.values() if batch.in_hand is not None]
        if in_hand and not self._kills:
            return
        self.check()
        restore(self._engine, rows)
        self.model, self._listed, self.poison = deepcopy(held)
        self._in_hand_at_end.update(in_hand)
        self._n_restored += 1
        self.seen = read(self._engine)

    def claim_newest(self, worker: str) -> None:
        """Claim the batch with the highest id, which a restore loses first."""
        if self.model.batches:
            self._notifications.insert(0, max(self.model.batches))
        self.claim(worker, listen=True)

    # the end

    def drain(self, max_rounds: int) -> int:
        """Stop the faults and let everything run: each image must end. Returns the number of rounds."""
        self._ghosts.clear()
        for scan, scan_id in enumerate(self.scan_ids):
            if self.seen.scans[scan_id].state == "paused":
                self.pause_or_resume(scan)
            self.end_listing(scan)
        for n_rounds in range(max_rounds):
            self.check()
            if all(scan.state in ("done", "cancelled") for scan in self.seen.scans.values()):
                self._check_end()
                return n_rounds
            self.pass_time(61, silent=False)
            self.reconcile(Fate.DELIVERED)
            self._finish_all()
        states = Counter(image.state for image in self.seen.images.values())
        raise AssertionError(f"not drained after {max_rounds} rounds: {dict(states)}")

    def _finish_all(self) -> None:
        """Each worker in turn takes two batches, so that a poison image takes another batch along."""
        for worker in WORKERS:
            self._finish(worker)
        for worker in cycle(WORKERS):
            if not self.claim(worker, listen=True) and not self._notifications:
                return
            if self._notifications:
                self.claim(worker, listen=True)
            self._finish(worker)

    def _finish(self, worker: str) -> None:
        while self.work(worker, 0, [Answer.CLEAR], store=False):
            pass

    def _check_end(self) -> None:
        ended = {scan_id for scan_id, scan in self.seen.scans.items() if scan.state == "done"}
        pending = [image.id for image in self.seen.images.values() if image.state == "pending"]
        assert not pending, f"scans are done with pending images {pending}"
        quarantined = {row.image_id for row in self.seen.failures if row.reason == crash_isolation.KILLER}
        scored = {image.id for image in self.seen.images.values() if image.scan_id in ended}
        survived = scored & self.poison - quarantined
        assert not survived, f"poison images {survived} were not quarantined"
        if not self._kills:
            assert quarantined <= self.poison, f"innocent images {quarantined - self.poison} were quarantined"
        for scan_id in self.scan_ids:
            with transaction(self._engine) as connection:
                progress = scans.progress(connection, scan_id)
            assert (progress.n_pending, progress.n_leased) == (0, 0), f"scan {scan_id}: {progress}"
