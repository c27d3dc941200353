"""The base of the simulation: the real ledger, the model beside it, and the checks after each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

import sqlalchemy as sa

from scanfleet.db.engine import transaction
from scanfleet.db.scans import crash_isolation
from tests.ledger_machine.invariants import forgotten, violations
from tests.ledger_machine.ledger import Snapshot, clock, open_scan, read, wipe
from tests.ledger_machine.model import Model
from tests.ledger_machine.moments import MAX_CRASHES, Span
from tests.ledger_machine.workers import Held

T = TypeVar("T")
WORKERS = ("w0", "w1", "w2")


class Ground:
    """Every change of the ledger is made to the model too. A `strict` simulation compares them after each step; another
    relies on the invariants and on the end alone, to show what those find by themselves.
    """

    def __init__(self, engine: sa.Engine, *, strict: bool, kills: bool) -> None:
        """kills: workers also end by chance while they work on a suspect's image, which can blame innocent ones."""
        wipe(engine)
        self._engine = engine
        self._strict = strict
        self._kills = kills
        opened = [open_scan(engine, f"mem://{name}") for name in "ab"]
        renewing, _ = open_scan(engine, "mem://c", rescan_of=opened[0][0])
        self.scan_ids = [*(scan_id for scan_id, _ in opened), renewing]
        self._scorer = opened[0][1]
        self._listed: dict[str, list[str]] = {scan_id: [] for scan_id in self.scan_ids}  # uris
        self._n_restored = 0
        self.model = Model(self.scan_ids)
        self._held: dict[str, list[Held]] = {worker: [] for worker in WORKERS}
        self._ghosts: list[Held] = []  # of workers that were given up, and may still write
        self._notifications: list[int] = []
        self.poison: set[int] = set()
        self._in_hand_at_end: Counter[int] = Counter()  # ends of workers, by the image that they worked on
        self._slowest = timedelta(0)  # transaction so far: how far a time that one wrote may lie after its `Span.lo`
        self.seen = read(engine)

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
        quarantined = {row.image_id for row in seen.failures if row.reason == crash_isolation.KILLER}
        faults += [f"image {image_id}: quarantined" for image_id in quarantined if ends[image_id] <= MAX_CRASHES]
        if not self._kills:
            blamed = {image.id for image in images if image.crashes}
            faults += [f"image {image_id}: blamed, and innocent" for image_id in blamed - self.poison]
        return faults

    def _expect(self, right: bool, words: str) -> None:
        assert right or not self._strict, words

    def _do(self, call: Callable[[sa.Connection], T]) -> tuple[T, Span]:
        """Run a transaction. Returns its result and its time."""
        before = clock()
        with transaction(self._engine) as connection:
            result = call(connection)
        at = Span(before, clock())
        self._slowest = max(self._slowest, at.hi - at.lo)
        return result, at

    def _moments(self, at: Span) -> tuple[datetime, datetime]:
        """The earliest and latest time at which a transaction may have read, against the earliest writes of others."""
        return at.lo - self._slowest, at.hi
