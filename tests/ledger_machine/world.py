"""Virtual workers, messages and images on the real ledger. They call the store as worker and producer do.

Whatever the ledger does is told to the model. A `strict` world compares the two after each step; another one relies on
the invariants and on the end alone, to show what those find by themselves.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import TypeVar

import sqlalchemy as sa

from scanfleet.errors import LeaseLost, RequestError
from scanfleet.store import batches, retries, rings, scans, suspects, verdicts
from scanfleet.store.batches import ClaimedImage, NewImage, Standing
from scanfleet.store.engine import transaction
from scanfleet.store.tables import Image, Scan
from tests.ledger_machine.invariants import forgotten, violations
from tests.ledger_machine.ledger import QUEUE, Snapshot, clock, open_scan, read, shift, wipe
from tests.ledger_machine.model import Model
from tests.ledger_machine.moments import LEASE, MAX_CRASHES, MAX_RINGS, RING_AGAIN, Span
from tests.ledger_machine.workers import Answer, Held, outcome

T = TypeVar("T")
WORKERS = ("w0", "w1", "w2")
IN_FLIGHT = 3  # batches of one worker
HOUR = 3600.0


class Fate(enum.Enum):
    """What the broker does with a knock."""

    DELIVERED = "delivered"
    LOST = "lost"
    DOUBLED = "doubled"
    AWAY = "away"  # it says so


class Late(enum.Enum):
    """What a worker tries that was away for longer than its lease."""

    WRITE = "write"
    HAND_BACK = "hand back"
    BEAT = "beat"
    IN_HAND = "in hand"


class World:
    def __init__(self, engine: sa.Engine, *, strict: bool, kills: bool) -> None:
        """kills: workers also end by chance while a suspect's image is in hand, so that innocents can be blamed."""
        wipe(engine)
        self._engine = engine
        self._strict = strict
        self._kills = kills
        opened = [open_scan(engine, f"mem://{name}") for name in "ab"]
        self.scan_ids = [scan_id for scan_id, _ in opened]
        self._scorer = opened[0][1]
        self._n_listed = dict.fromkeys(self.scan_ids, 0)
        self.model = Model(self.scan_ids)
        self._held: dict[str, list[Held]] = {worker: [] for worker in WORKERS}
        self._ghosts: list[Held] = []  # of workers that were given up, and may not be dead
        self._knocks: list[int] = []
        self.poison: set[int] = set()
        self._in_hand_at_end: Counter[int] = Counter()  # workers that ended or fell silent, by the image in hand
        self.seen = read(engine)

    # looking

    def check(self) -> None:
        seen = read(self._engine)
        faults = violations(seen) + forgotten(self.seen, seen) + self._blamed_wrongly(seen)
        if self._strict:
            faults += self.model.differences(seen)
        assert not faults, "; ".join(faults)
        self.seen = seen

    def _blamed_wrongly(self, seen: Snapshot) -> list[str]:
        ends, images = self._in_hand_at_end, seen.images.values()
        faults = [
            f"image {image.id} has {image.crashes} crashes and was in hand at {ends[image.id]} ends"
            for image in images
            if image.crashes > ends[image.id]
        ]
        quarantined = {row.image_id for row in seen.failures if row.reason == suspects.KILLER}
        faults += [f"image {image_id}: quarantined" for image_id in quarantined if ends[image_id] <= MAX_CRASHES]
        if not self._kills:
            blamed = {image.id for image in images if image.crashes}
            faults += [f"image {image_id}: blamed, and innocent" for image_id in blamed - self.poison]
        return faults

    def _believe(self, right: bool, words: str) -> None:
        assert right or not self._strict, words

    def _do(self, call: Callable[[sa.Connection], T]) -> tuple[T, Span]:
        """One transaction, and when it was."""
        before = clock()
        with transaction(self._engine) as connection:
            result = call(connection)
        return result, Span(before, clock())

    # the producer and people

    def list_page(self, scan: int, n_images: int, *, batch_images: int, poison: Sequence[int] = ()) -> None:
        """A page of new images; `poison`: which of them kill their worker."""
        scan_id = self.scan_ids[scan]
        start = self._n_listed[scan_id]
        page = [NewImage(uri=f"mem://{scan}/{number}", etag="1") for number in range(start, start + n_images)]
        if self._write_page(scan_id, page, batch_images):
            self._n_listed[scan_id] += n_images
            ids = sorted(image.id for batch in self.model.of_scan(scan_id) for image in batch.images)[start:]
            self.poison |= {ids[at] for at in poison if at < len(ids)}

    def list_again(self, scan: int) -> None:
        """A page that the scan holds already: nothing may come of it."""
        scan_id = self.scan_ids[scan]
        page = [NewImage(uri=f"mem://{scan}/{number}", etag="1") for number in range(self._n_listed[scan_id])]
        n_batches = len(self.model.batches)
        self._write_page(scan_id, page, 2)
        self._believe(len(self.model.batches) == n_batches, "listing again added a batch")

    def _write_page(self, scan_id: str, page: list[NewImage], batch_images: int) -> bool:
        """As producer.enqueue does it; False: the scan is cancelled."""

        def write(connection: sa.Connection) -> dict[int, list[int]] | None:
            connection.execute(sa.select(Scan.id).where(Scan.id == scan_id).with_for_update())
            if scans.get_scan(connection, scan_id).state == "cancelled":
                return None
            added = batches.add_images(connection, scan_id=scan_id, queue=QUEUE, images=page, batch_images=batch_images)
            if added:
                scans.reopen(connection, scan_id)
                connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(n_listed=None))
            rows = connection.execute(sa.select(Image.id, Image.batch_id).where(Image.batch_id.in_(added)))
            members: dict[int, list[int]] = {batch_id: [] for batch_id in added}
            for row in rows.all():
                members[row.batch_id].append(row.id)
            return members

        members, _ = self._do(write)
        cancelled = self.model.scans[scan_id].state == "cancelled"
        self._believe((members is None) == cancelled, "listing into a cancelled scan")
        if members is not None:
            self.model.listed(scan_id, members)
        return members is not None

    def end_listing(self, scan: int) -> None:
        scan_id = self.scan_ids[scan]

        def end(connection: sa.Connection) -> None:
            connection.execute(sa.select(Scan.id).where(Scan.id == scan_id).with_for_update())
            values = {"n_listed": scans.progress(connection, scan_id).n_images}
            connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(values))
            scans.finish_if_complete(connection, scan_id)

        if self.seen.scans[scan_id].state != "cancelled":
            self._do(end)
            self.model.listing_ended(scan_id)

    def pause_or_resume(self, scan: int) -> None:
        held = self.model.scans[self.scan_ids[scan]]
        pausing = self.seen.scans[held.id].state == "running"
        if self._request(lambda connection: (scans.pause if pausing else scans.resume)(connection, held.id)):
            self._believe(held.state in ("running", "paused"), f"a {held.state} scan was changed")
            held.state = "paused" if pausing else "running"
        else:
            self._believe(held.state in ("done", "cancelled"), f"a {held.state} scan was refused")

    def cancel(self, scan: int) -> None:
        held = self.model.scans[self.scan_ids[scan]]
        if self._request(lambda connection: scans.cancel(connection, held.id)):
            self._believe(held.state in ("running", "paused"), f"a {held.state} scan was cancelled")
            self.model.cancelled(held.id)
        else:
            self._believe(held.state in ("done", "cancelled"), f"a {held.state} scan was refused")

    def _request(self, call: Callable[[sa.Connection], object]) -> bool:
        try:
            self._do(call)
        except RequestError:
            return False
        return True

    def retry(self, scan: int, *, only_killers: bool) -> None:
        scan_id = self.scan_ids[scan]
        reason = suspects.KILLER if only_killers else None
        n_retried: list[int] = []
        if not self._request(lambda c: n_retried.append(retries.retry_failures(c, scan_id, reason=reason))):
            self._believe(self.model.scans[scan_id].state == "cancelled", "a retry was refused")
            return
        again = {row.image_id for row in self.seen.failures if reason in (None, row.reason)}
        for image_id in again:
            if self.seen.images[image_id].scan_id == scan_id:
                self._in_hand_at_end[image_id] = 0
        n_expected = self.model.retried(scan_id, lambda failure: reason in (None, failure[1]))
        self._believe(n_retried == [n_expected], f"{n_retried} images retried, {n_expected} had failed")

    # a worker

    def claim(self, worker: str, *, listen: bool) -> bool:
        """Take a batch; `listen`: the one that somebody knocked for. Returns whether there was one."""
        rung = self._knocks.pop(0) if listen and self._knocks else None
        if len(self._held[worker]) >= IN_FLIGHT:
            return False
        claim, at = self._do(
            lambda connection: batches.claim(connection, queue=QUEUE, worker=worker, lease_seconds=LEASE, rung=rung)
        )
        got = None if claim is None else claim.batch_id
        expected = {self.model.next_claim(rung, moment) for moment in (at.lo, at.hi)}
        self._believe(len(expected) > 1 or got in expected, f"claimed batch {got}, not {expected} (rung: {rung})")
        if claim is None:
            return False
        self.model.claimed(claim.batch_id, worker, at)
        batch = self.model.batches[claim.batch_id]
        wanted = [image.id for image in sorted(batch.pending, key=lambda image: (image.crashes, image.id))]
        told = (claim.token, claim.attempts, claim.suspect, [image.id for image in claim.images])
        model = (batch.lease_token, batch.attempts, batch.suspect, wanted)
        self._believe(told == model, f"batch {claim.batch_id}: claimed {told}, not {model}")
        self._held[worker].append(Held.of(claim))
        return True

    def work(self, worker: str, which: int, answers: Sequence[Answer], *, store: bool) -> bool:
        """One step: a batch is finished, or a suspect goes on by one image. Returns whether there was any work."""
        held = self._choose(worker, which)
        if held is None:
            return False
        if held.alone:
            self._isolated_step(worker, held, answers, store=store)
        elif self._touch(worker, held.claim.images):
            known = outcome(self._scorer, held.claim.images, answers, store=store)
            self._end(worker, held)
            if at := self._written(held, lambda connection: verdicts.write(connection, held.claim, known)):
                self.model.written(held.claim, known, at)
        return True

    def _choose(self, worker: str, which: int) -> Held | None:
        """A suspect under way has the worker to itself."""
        mine = self._held[worker]
        alone = [held for held in mine if held.in_hand]
        return alone[0] if alone else mine[which % len(mine)] if mine else None

    def _isolated_step(self, worker: str, held: Held, answers: Sequence[Answer], *, store: bool) -> None:
        if not self._kills and not self._beat(held):
            self._end(worker, held)
            return
        done = [] if held.in_hand is None else [held.in_hand]
        if not self._touch(worker, done):
            return
        known = outcome(self._scorer, done, answers, store=store)
        held.waits = held.waits or known.waiting_for is not None
        if held.left:
            held.in_hand = held.left.pop(0)
            self._go_on(worker, held, known, held.in_hand.id)
            return
        self._end(worker, held)
        known = replace(known, waiting_for="the world" if held.waits else None)
        if at := self._written(held, lambda connection: verdicts.write(connection, held.claim, known)):
            self.model.written(held.claim, known, at)

    def _go_on(self, worker: str, held: Held, known: verdicts.Outcome, in_hand: int) -> None:
        at = self._written(held, lambda connection: verdicts.write_part(connection, held.claim, known, in_hand=in_hand))
        if at:
            self.model.part_written(held.claim, known, in_hand, at)
            if held.claim.batch_id in self.model.overdue(at.hi):
                self._mourn([held])  # the image was taken in hand after the lease was over
        else:
            self._end(worker, held)

    def _touch(self, worker: str, images: Sequence[ClaimedImage]) -> bool:
        """False: one of them killed the worker, and all it held is gone with it."""
        if not any(image.id in self.poison for image in images):
            return True
        self._mourn(self._held[worker])
        self._held[worker].clear()
        return False

    def hand_back(self, worker: str, which: int, n_known: int, answers: Sequence[Answer]) -> None:
        held = self._choose(worker, which)
        if held is None:
            return
        known = [] if held.alone else held.claim.images[:n_known]
        if self._touch(worker, known):
            part = outcome(self._scorer, known, answers, store=False)
            self._end(worker, held)
            if at := self._written(held, lambda connection: verdicts.hand_back(connection, held.claim, part)):
                self.model.handed_back(held.claim, part, at)

    def _end(self, worker: str, held: Held) -> None:
        self._held[worker].remove(held)

    def _written(self, held: Held, call: Callable[[sa.Connection], None]) -> Span | None:
        """A transaction under the lease: refused if, and only if, the lease is lost."""
        ours = self.model.holds(held.claim)
        try:
            _, at = self._do(call)
        except LeaseLost:
            self._believe(not ours, f"batch {held.claim.batch_id}: refused, but the lease is held")
            return None
        self._believe(ours, f"batch {held.claim.batch_id}: written without a lease")
        return at

    def vanish(self, worker: str) -> None:
        """The worker is gone, or so it seems: it may come back as a late writer."""
        mine = self._held[worker]
        if self._kills or not any(held.in_hand for held in mine):
            self._mourn(mine)
            self._ghosts = [*self._ghosts, *mine][-6:]
            mine.clear()

    def _mourn(self, lost: Sequence[Held]) -> None:
        self._in_hand_at_end.update(held.in_hand.id for held in lost if held.in_hand)

    def late(self, which: int, how: Late) -> None:
        """Somebody comes back. What he does counts only if nobody has taken his lease."""
        if not self._ghosts:
            return
        held = self._ghosts[which % len(self._ghosts)]
        claim, ours = held.claim, self.model.holds(held.claim)
        if ours or how is Late.BEAT:
            self._beat(held)
            return
        answered = [image for image in claim.images if image.id not in self.poison]
        known = outcome(self._scorer, answered, [Answer.FLAG], store=False)
        match how:
            case Late.WRITE:
                self._written(held, lambda connection: verdicts.write(connection, claim, known))
            case Late.HAND_BACK:
                self._written(held, lambda connection: verdicts.hand_back(connection, claim, known))
            case Late.IN_HAND if claim.images:
                in_hand = claim.images[0].id
                self._written(held, lambda connection: batches.take_in_hand(connection, claim, in_hand))

    def beat(self, worker: str) -> None:
        self._held[worker] = [held for held in self._held[worker] if self._beat(held)]

    def _beat(self, held: Held) -> bool:
        at = self._written(held, lambda connection: batches.extend(connection, held.claim, lease_seconds=LEASE))
        if at:
            self.model.extended(held.claim, at)
        return at is not None

    def look(self, worker: str) -> None:
        """Notice what people did: cancelled batches are dropped, those of a paused scan handed back."""
        mine = self._held[worker]
        found, _ = self._do(lambda connection: batches.standing(connection, [held.claim for held in mine]))
        for held in list(mine):
            standing = found[held.claim.batch_id]
            paused = self.model.scans[held.claim.scan_id].state == "paused"
            expected = (Standing.PAUSED if paused else Standing.HELD) if self.model.holds(held.claim) else Standing.LOST
            self._believe(standing is expected, f"batch {held.claim.batch_id}: {standing}, not {expected}")
            if standing is Standing.LOST:
                self._end(worker, held)
            elif standing is Standing.PAUSED:
                self.hand_back(worker, mine.index(held), 0, [Answer.CLEAR])

    # time, and the reconciler

    def pass_time(self, seconds: float, *, silent: bool) -> None:
        """silent: no worker beats meanwhile, as if all were frozen, or the clock jumped."""
        shift(self._engine, seconds)
        self.model.shifted(seconds)
        for worker, mine in self._held.items():
            busy_alone = any(held.in_hand for held in mine)
            if not silent or (busy_alone and not self._kills):
                self.beat(worker)
            else:
                self._mourn(mine)

    def reconcile(self, fate: Fate) -> None:
        """One round of scanfleet.reconcile, with a broker that does what it likes."""

        def one_round(connection: sa.Connection) -> tuple[suspects.Expired, list[int]]:
            expired = suspects.expire_leases(connection)
            scans.finish_all_complete(connection)
            found = rings.due_for_ring(connection, ring_again_seconds=RING_AGAIN, max_outstanding=MAX_RINGS)
            return expired, [batch_id for batch_id, _ in found]

        (expired, rung), at = self._do(one_round)
        overdue = self.model.overdue(at.lo)
        self._believe(expired.n == len(overdue), f"{expired.n} leases expired, not {overdue}")
        quarantined = self.model.expired(overdue, at)
        self._believe(list(expired.quarantined) == quarantined, f"quarantined {expired.quarantined}, not {quarantined}")
        for scan_id in self.scan_ids:
            self.model.finish(scan_id)
        self._rung_rightly(rung, at)
        self.model.rung(rung, at)
        if fate is Fate.AWAY:
            self._do(lambda connection: rings.mark_rung(connection, rung, at=None))
            self.model.rung(rung, None)
        self._knocks += rung * {Fate.DELIVERED: 1, Fate.DOUBLED: 2}.get(fate, 0)

    def _rung_rightly(self, rung: list[int], at: Span) -> None:
        (free, probes), later = self.model.next_rings(at.lo), self.model.next_rings(at.hi)
        if (free, probes) != later:
            return  # something fell due in this very millisecond
        found, probed = rung[: len(free)], rung[len(free) :]
        right = found == free and len(probed) == len(probes)
        right = right and all(any(batch_id in choice for batch_id in probed) for choice in probes)
        self._believe(right, f"rung for {rung}, not for {free} and one of each of {probes}")

    # the end

    def drain(self, max_rounds: int) -> int:
        """Faults stop, people let everything run: each image must end. Returns how many rounds that took."""
        self._ghosts.clear()
        for scan, scan_id in enumerate(self.scan_ids):
            if self.seen.scans[scan_id].state == "paused":
                self.pause_or_resume(scan)
            self.end_listing(scan)
        for n_rounds in range(max_rounds):
            self.check()
            if all(scan.state in ("done", "cancelled") for scan in self.seen.scans.values()):
                self._judge_the_end()
                return n_rounds
            self.pass_time(61, silent=False)
            self.reconcile(Fate.DELIVERED)
            self._work_all_off()
        states = Counter(image.state for image in self.seen.images.values())
        raise AssertionError(f"not drained after {max_rounds} rounds: {dict(states)}")

    def _work_all_off(self) -> None:
        """Each worker in turn takes two batches, so that a poison image takes another batch along."""
        for worker in WORKERS:
            self._work_off(worker)
        for worker in cycle(WORKERS):
            if not self.claim(worker, listen=True) and not self._knocks:
                return
            if self._knocks:
                self.claim(worker, listen=True)
            self._work_off(worker)

    def _work_off(self, worker: str) -> None:
        while self.work(worker, 0, [Answer.CLEAR], store=False):
            pass

    def _judge_the_end(self) -> None:
        ended = {scan_id for scan_id, scan in self.seen.scans.items() if scan.state == "done"}
        pending = [image.id for image in self.seen.images.values() if image.state == "pending"]
        assert not pending, f"scans are done with pending images {pending}"
        quarantined = {row.image_id for row in self.seen.failures if row.reason == suspects.KILLER}
        scored = {image.id for image in self.seen.images.values() if image.scan_id in ended}
        survived = scored & self.poison - quarantined
        assert not survived, f"poison images {survived} were not quarantined"
        if not self._kills:
            assert quarantined <= self.poison, f"innocent images {quarantined - self.poison} were quarantined"
        for scan_id in self.scan_ids:
            with transaction(self._engine) as connection:
                progress = scans.progress(connection, scan_id)
            assert (progress.n_pending, progress.n_leased) == (0, 0), f"scan {scan_id}: {progress}"
