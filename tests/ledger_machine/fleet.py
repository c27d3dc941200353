"""Virtual workers. They call scanfleet.db as real ones do, die of poison images, and write too late."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import replace

import sqlalchemy as sa

from scanfleet.db.results import verdicts
from scanfleet.db.scans import batches
from scanfleet.db.scans.batches import ClaimedImage, LeaseState
from scanfleet.errors import LeaseLost
from tests.ledger_machine.moments import LEASE, Span
from tests.ledger_machine.people import People
from tests.ledger_machine.workers import Answer, Held, outcome

IN_FLIGHT = 3  # batches of one worker


class Late(enum.Enum):
    """The writes that a worker tries after its lease expired."""

    WRITE = "write"
    HAND_BACK = "hand back"
    BEAT = "beat"
    IN_HAND = "in hand"


class Fleet(People):
    def claim(self, worker: str, *, listen: bool) -> bool:
        """Take a batch; listen: the notified one. Returns True if there was one."""
        notified = self._notifications.pop(0) if listen and self._notifications else None
        if len(self._held[worker]) >= IN_FLIGHT:
            return False
        claim, at = self._do(
            lambda connection: batches.claim(
                connection, model="fake", worker=worker, lease_seconds=LEASE, notified=notified
            )
        )
        got = None if claim is None else claim.batch_id
        expected = {self.model.next_claim(notified, moment) for moment in self._moments(at)}
        self._expect(
            len(expected) > 1 or got in expected, f"claimed batch {got}, not {expected} (notified: {notified})"
        )
        if claim is None:
            return False
        self.model.claimed(claim.batch_id, worker, at)
        batch = self.model.batches[claim.batch_id]
        wanted = [image.id for image in sorted(batch.pending, key=lambda image: (image.crashes, image.id))]
        told = (claim.token, claim.attempts, claim.suspect, [image.id for image in claim.images])
        model = (batch.lease_token, batch.attempts, batch.suspect, wanted)
        self._expect(told == model, f"batch {claim.batch_id}: claimed {told}, not {model}")
        self._held[worker].append(Held.of(claim))
        return True

    def work(self, worker: str, which: int, answers: Sequence[Answer], *, store: bool) -> bool:
        """One step: a batch is finished, or a suspect continues by one image. Returns True if there was work."""
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
        """Work on a suspect, which has the worker to itself."""
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
        known = replace(known, waiting_for="a transient error" if held.waits else None)
        if at := self._written(held, lambda connection: verdicts.write(connection, held.claim, known)):
            self.model.written(held.claim, known, at)

    def _go_on(self, worker: str, held: Held, known: verdicts.Outcome, in_hand: int) -> None:
        at = self._written(held, lambda connection: verdicts.write_part(connection, held.claim, known, in_hand=in_hand))
        if at:
            self.model.part_written(held.claim, known, in_hand, at)
            if held.claim.batch_id in self.model.overdue(at.hi):
                self._give_up([held])  # the image was recorded after the lease had expired
        else:
            self._end(worker, held)

    def _touch(self, worker: str, images: Sequence[ClaimedImage]) -> bool:
        """Read images. False: one of them killed the worker, and all its claims are lost."""
        if not any(image.id in self.poison for image in images):
            return True
        self._give_up(self._held[worker])
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
        """Run a transaction under the lease: it is refused if, and only if, the lease is lost."""
        ours = self.model.holds(held.claim)
        try:
            _, at = self._do(call)
        except LeaseLost:
            self._expect(not ours, f"batch {held.claim.batch_id}: refused, but the lease is held")
            return None
        self._expect(ours, f"batch {held.claim.batch_id}: written without a lease")
        return at

    def vanish(self, worker: str) -> None:
        """Let a worker vanish. It may come back as a late writer."""
        mine = self._held[worker]
        if self._kills or not any(held.in_hand for held in mine):
            self._give_up(mine)
            self._ghosts = [*self._ghosts, *mine][-6:]
            mine.clear()

    def _give_up(self, lost: Sequence[Held]) -> None:
        self._in_hand_at_end.update(held.in_hand.id for held in lost if held.in_hand)

    def late(self, which: int, how: Late) -> None:
        """Let a vanished worker write. It succeeds only if its lease is still current."""
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
        """Notice changes by people: cancelled batches are dropped, those of a paused scan handed back."""
        mine = self._held[worker]
        found, _ = self._do(lambda connection: batches.lease_states(connection, [held.claim for held in mine]))
        for held in list(mine):
            standing = found[held.claim.batch_id]
            paused = self.model.scans[held.claim.scan_id].state == "paused"
            expected = (
                (LeaseState.PAUSED if paused else LeaseState.HELD)
                if self.model.holds(held.claim, images=False)
                else LeaseState.LOST
            )
            self._expect(standing is expected, f"batch {held.claim.batch_id}: {standing}, not {expected}")
            if standing is LeaseState.LOST:
                self._end(worker, held)
            elif standing is LeaseState.PAUSED:
                self.hand_back(worker, mine.index(held), 0, [Answer.CLEAR])
