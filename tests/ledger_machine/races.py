"""Transactions that really run concurrently, on a small ledger in a random state."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from scanfleet.db.engine import transaction
from scanfleet.db.results import verdicts
from scanfleet.db.scans import batches, crash_isolation, new_images, notifications, retries, scans
from scanfleet.db.scans.batches import Claim
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import DatabaseUnavailable, LeaseLost, RequestError
from tests.ledger_machine.ledger import QUEUE, open_scan, shift, wipe
from tests.ledger_machine.workers import Answer, outcome

Act = Callable[[sa.Connection], object]
DEADLOCK = "40P01"  # SQLSTATE
PAUSE_SECONDS = 0.002  # at most, before a statement: shuffles how the transactions interleave


@dataclass(kw_only=True)
class Race:
    """The results of transactions that began together."""

    errors: list[Exception] = field(default_factory=list)

    @property
    def deadlocks(self) -> int:
        causes = [getattr(error.__cause__, "orig", None) for error in self.errors]
        return sum(getattr(cause, "sqlstate", None) == DEADLOCK for cause in causes)

    @property
    def surprises(self) -> list[Exception]:
        return [error for error in self.errors if not isinstance(error, LeaseLost | RequestError | DatabaseUnavailable)]


def shuffled(engine: sa.Engine) -> sa.Engine:
    """An engine whose transactions stop for a moment between statements."""

    def pause(*_: object) -> None:
        time.sleep(random.uniform(0, PAUSE_SECONDS))

    sa.event.listen(engine, "before_cursor_execute", pause)
    return engine


def run_together(engine: sa.Engine, acts: list[Act]) -> Race:
    race = Race()
    barrier = threading.Barrier(len(acts))

    def run(act: Act) -> None:
        barrier.wait()
        try:
            with transaction(engine) as connection:
                act(connection)
        except Exception as error:
            race.errors.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return race


class Scene:
    """Two scans of a few batches: ready, leased (expired or not, some with an image in work), done with failures."""

    def __init__(self, engine: sa.Engine, dice: random.Random) -> None:
        wipe(engine)
        self.dice = dice
        self.engine = engine
        opened = [open_scan(engine, f"mem://{name}") for name in "ab"]
        self.scan_ids = [scan_id for scan_id, _ in opened]
        self.scorer = opened[0][1]
        self.held: list[Claim] = []
        with transaction(engine) as connection:
            for scan_id in self.scan_ids:
                page = [NewImage(uri=f"{scan_id}/{number}") for number in range(dice.randint(2, 6))]
                new_images.add_images(
                    connection, scan_id=scan_id, queue=QUEUE, images=page, batch_images=dice.randint(1, 2)
                )
                connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(n_listed=len(page)))
            self._begin_some(connection)
        if dice.random() < 0.5:
            shift(engine, 61)  # all leases have expired

    def _begin_some(self, connection: sa.Connection) -> None:
        for _ in range(self.dice.randint(1, 8)):
            fate = self.dice.choice(["held", "held", "broken", "suspect", "notified"])
            if fate == "notified":
                notifications.due_for_notification(
                    connection, renotify_seconds=30, max_outstanding=self.dice.randint(1, 5)
                )
            elif (held := self._take(connection)) is not None:
                if fate == "broken":
                    answers = [Answer.BROKEN, Answer.CLEAR]
                    verdicts.write(connection, held, outcome(self.scorer, held.images, answers, store=True))
                elif fate == "suspect":
                    suspect = sa.update(Batch).where(Batch.id == held.batch_id).values(suspect=True, crashes=1)
                    connection.execute(suspect)
                    batches.take_in_hand(connection, held, held.images[0].id)
                    self.held.append(held)
                else:
                    self.held.append(held)
        if self.dice.random() < 0.3:
            troubled = sa.update(Scan).where(Scan.id == self.scan_ids[0]).values(trouble=2)
            connection.execute(troubled)

    def _take(self, connection: sa.Connection) -> Claim | None:
        return batches.claim(connection, model="fake", worker="w", lease_seconds=60)

    def act(self, name: str, number: int) -> Act:
        """One of the transactions below; number: its place in the race, which chooses the claim."""
        made: Act = getattr(self, f"_{name}")(number)
        return made

    def _claim(self, _: int) -> Act:
        return self._take

    def _mine(self, number: int, *, same: bool = False) -> Claim | None:
        return self.held[(0 if same else number) % len(self.held)] if self.held else None

    def _settling(self, number: int, answers: list[Answer], *, same: bool = False) -> Act:
        held = self._mine(number, same=same)
        if held is None:
            return self._take
        known = outcome(self.scorer, held.images, answers, store=True)
        return lambda connection: verdicts.write(connection, held, known)

    def _settle(self, number: int) -> Act:
        return self._settling(number, [Answer.CLEAR, Answer.BROKEN])

    def _settle_same(self, number: int) -> Act:
        return self._settling(number, [Answer.CLEAR, Answer.BROKEN], same=True)

    def _hold(self, number: int) -> Act:
        """Settle with an unavailable store."""
        return self._settling(number, [Answer.REUSED, Answer.WAITS])

    def _hold_all(self, number: int) -> Act:
        return self._settling(number, [Answer.WAITS])

    def _release(self, number: int) -> Act:
        return self._settling(number, [Answer.CLEAR, Answer.WAITS])

    def _part(self, number: int) -> Act:
        held = self._mine(number)
        if held is None or len(held.images) < 2:
            return self._settle(number)
        known = outcome(self.scorer, held.images[:1], [Answer.CLEAR], store=True)
        suspect = sa.update(Batch).where(Batch.id == held.batch_id).values(suspect=True)

        def write(connection: sa.Connection) -> None:
            verdicts.write_part(connection, held, known, in_hand=held.images[1].id)
            connection.execute(suspect)  # only suspects are worked on like this

        return write

    def _hand_back(self, number: int) -> Act:
        held = self._mine(number)
        if held is None:
            return self._take
        known = outcome(self.scorer, held.images[:1], [Answer.CLEAR], store=True)
        return lambda connection: verdicts.hand_back(connection, held, known)

    def _extend(self, number: int) -> Act:
        held = self._mine(number)
        if held is None:
            return self._take
        return lambda connection: batches.extend(connection, held, lease_seconds=60)

    def _expire(self, _: int) -> Act:
        return crash_isolation.expire_leases

    def _reconcile(self, _: int) -> Act:
        def one_round(connection: sa.Connection) -> None:
            crash_isolation.expire_leases(connection)
            scans.finish_all_complete(connection)
            notifications.due_for_notification(connection, renotify_seconds=30, max_outstanding=3)

        return one_round

    def _notify(self, _: int) -> Act:
        return lambda connection: notifications.due_for_notification(connection, renotify_seconds=30, max_outstanding=3)

    def _unnotify(self, _: int) -> Act:
        """Reset marks, as after an unavailable broker."""
        found = sa.select(Batch.id).where(Batch.notified_at.is_not(None))
        with self.engine.connect() as connection:
            ids = connection.execute(found).scalars().all()
        return lambda connection: notifications.mark_notified(connection, ids, at=None)

    def _scan_id(self) -> str:
        return self.dice.choice([*self.scan_ids, self.scan_ids[0]])

    def _pause(self, _: int) -> Act:
        scan_id = self._scan_id()
        return lambda connection: scans.pause(connection, scan_id)

    def _cancel(self, _: int) -> Act:
        scan_id = self._scan_id()
        return lambda connection: scans.cancel(connection, scan_id)

    def _retry(self, _: int) -> Act:
        scan_id = self._scan_id()
        return lambda connection: retries.retry_failures(connection, scan_id)

    def _list(self, number: int) -> Act:
        """Write a page and mark batches as notified, as producer.scans.enqueue does."""
        scan_id = self._scan_id()
        page = [NewImage(uri=f"{scan_id}/more{number}/{at}") for at in range(3)]

        def write(connection: sa.Connection) -> None:
            connection.execute(sa.select(Scan.id).where(Scan.id == scan_id).with_for_update())
            if scans.get_scan(connection, scan_id).state == "cancelled":
                return
            new_images.add_images(connection, scan_id=scan_id, queue=QUEUE, images=page, batch_images=2)
            scans.reopen(connection, scan_id)
            connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(n_listed=None))
            notifications.due_for_notification(connection, renotify_seconds=30, max_outstanding=3)

        return write
