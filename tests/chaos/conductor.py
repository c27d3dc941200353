"""Watches the progress of a run, and begins and ends its faults."""

from __future__ import annotations

import dataclasses
import heapq
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa
from celery import Celery

from scanfleet.db.engine import reading
from scanfleet.db.tables import Scan
from scanfleet.errors import DatabaseUnavailable
from tests.chaos.archive import first_scans
from tests.chaos.faults import FAULTS, Begun, Ground, NotNow
from tests.chaos.fleet.services import RunServices
from tests.chaos.fleet.supervisor import Supervisor
from tests.chaos.options import Options
from tests.chaos.producers import Producers
from tests.chaos.recovery import Recovery, n_settled
from tests.chaos.stuck import what_is_stuck

POLL_SECONDS = 0.1
CALM_SECONDS = (3.0, 8.0)  # without progress, the next fault comes after this time
EFFECT_POLL_SECONDS = 0.5
EFFECT_SECONDS = 20.0  # after its time, a fault is ended although it had no effect yet
LAST_SHARE = 0.75  # of the images: by then all faults have begun


@dataclass(order=True)
class _Ending:
    at: float
    number: int
    begun: Begun = field(compare=False)
    latest: float = field(compare=False)


class Conductor:
    def __init__(
        self, here: RunServices, fleet: Supervisor, app: Celery, options: Options, say: Callable[[str], None]
    ) -> None:
        self.injected: Counter[str] = Counter()
        self.seconds = 0.0
        self.stuck: str | None = None
        self.recovery = Recovery(here.engine)
        self._services = here
        self._fleet = fleet
        self._options = options
        self._say = say
        self._rng = random.Random(f"moments {options.seed}")
        self.producers = Producers(here, app, self._rng)
        self.ground = Ground(
            services=here,
            fleet=fleet,
            app=app,
            producers=self.producers,
            recovery=self.recovery,
            rng=self._rng,
        )
        self._endings: list[_Ending] = []
        self._n_settled = 0
        self._moved_at = time.monotonic()

    def conduct(self) -> None:
        start = time.monotonic()
        for scan in first_scans(workers=self._options.workers):
            self.producers.begin(scan)
        plan = self._options.plan()
        while plan and not self._given_up():
            self._await_moment()
            self._begin_one(plan)
        while self._endings:
            self._look()
        self._say("no more faults")
        while not self._done() and not self._given_up():
            self._look()
        self.producers.close()
        self.seconds = time.monotonic() - start

    def _await_moment(self) -> None:
        """Until a random amount of progress or of time has passed."""
        mean = LAST_SHARE * self._options.images / max(self._options.faults, 1)
        enough = self._n_settled + self._rng.uniform(0.3, 1.7) * mean
        latest = time.monotonic() + self._rng.uniform(*CALM_SECONDS)
        while self._n_settled < enough and time.monotonic() < latest:
            self._look()

    def _begin_one(self, plan: list[str]) -> None:
        """The first fault of the plan that is possible now."""
        for kind in list(dict.fromkeys(plan)):
            try:
                begun = FAULTS[kind](self.ground)
            except NotNow:
                continue
            plan.remove(kind)
            self.injected[kind] += 1
            self._moved_at = time.monotonic()  # the timeout begins anew: the fleet may need time to recover
            at = time.monotonic() + begun.seconds
            ending = _Ending(at=at, number=sum(self.injected.values()), begun=begun, latest=at + EFFECT_SECONDS)
            heapq.heappush(self._endings, ending)
            self._say(f"{self._n_settled:6} settled  {kind}" + f" for {begun.seconds:.1f} s" * (begun.seconds > 0))
            return

    def _look(self) -> None:
        time.sleep(POLL_SECONDS)
        self._end_due()
        self.recovery.look()
        settled = n_settled(self._services.engine)
        if settled is not None and settled != self._n_settled:  # fewer, when the database was restored
            self._n_settled, self._moved_at = settled, time.monotonic()

    def _end_due(self) -> None:
        while self._endings and self._endings[0].at <= time.monotonic():
            ending = self._endings[0]
            if ending.begun.effect() or time.monotonic() > ending.latest:
                heapq.heappop(self._endings).begun.end()
            else:
                heapq.heapreplace(self._endings, dataclasses.replace(ending, at=time.monotonic() + EFFECT_POLL_SECONDS))

    def _done(self) -> bool:
        if self.producers.listed() is None:
            return False
        try:
            with reading(self._services.engine) as connection:
                states = connection.execute(sa.select(Scan.state)).scalars().all()
        except DatabaseUnavailable:
            return False
        return len(states) == len(self.producers.scans) and set(states) == {"done"}

    def _given_up(self) -> bool:
        silent = time.monotonic() - self._moved_at
        if silent < self._options.patience_seconds:
            return False
        if self.stuck is None:
            what = what_is_stuck(self._services, self._fleet)
            self.stuck = "\n".join((f"no progress for {silent:.0f} s", *self.producers.errors, what))
        return True
