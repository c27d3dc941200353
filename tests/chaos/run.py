"""A run from its start to its audit: enqueue, faults during the work, then none, then the count."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa
from celery import Celery

from producer.scans.enqueue import enqueue
from producer.sources.filters import Filters
from producer.sources.listing import Listing
from producer.sources.open import open_source
from scanfleet.checks.check import load_check
from scanfleet.db.engine import reading
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import DatabaseUnavailable
from scanfleet.queue.app import make_app
from tests.chaos.archive import BUCKET, PREFIXES
from tests.chaos.audit import Audit, audit
from tests.chaos.fault_injection import QUEUE, Faults, NotNow
from tests.chaos.options import Options
from tests.chaos.recovery import Recovery
from tests.chaos.services import RunServices, run_services
from tests.chaos.stuck import what_is_stuck
from tests.chaos.supervisor import Supervisor

POLL_SECONDS = 0.1
CALM_SECONDS = (3.0, 8.0)  # without progress, the next fault comes after this time
LAST_SHARE = 0.75  # of the images: by then all faults have begun


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run. seconds: from the first image enqueued to the last one settled."""

    options: Options
    audit: Audit
    faults: Counter[str]
    seconds: float
    setup_seconds: float
    recovery: Recovery
    restarts: int
    exits: Counter[int]  # exit codes of workers during the run; -9: killed
    last_exits: Counter[int]  # of the workers stopped at the end
    stuck: str | None  # what the fleet waits for, as text; None: it finished

    @property
    def holds(self) -> bool:
        return self.stuck is None and self.audit.holds and sum(self.faults.values()) == self.options.faults


def run(options: Options, *, say: Callable[[str], None] = lambda _: None) -> Result:
    """Run. Raises the errors of the tests' services; a fleet that fails is a Result."""
    with run_services(options) as here, make_app(here.settings, (QUEUE,)) as app:
        say(f"ready after {here.setup_seconds:.0f} s of preparation: {options.images} images, seed {options.seed}")
        fleet = Supervisor(here, options)
        conductor = Conductor(here, fleet, app, options, say)
        fleet.start()
        try:
            conductor.conduct()
        finally:
            last_exits = fleet.stop()  # before the count: late writers must have tried
            if options.logs is not None:
                fleet.keep_logs(options.logs)
        return Result(
            options=options,
            audit=audit(here.engine, options, max_pixels=here.settings.max_image_pixels),
            faults=conductor.injected,
            seconds=conductor.seconds,
            setup_seconds=here.setup_seconds,
            recovery=conductor.recovery,
            restarts=fleet.n_restarts,
            exits=fleet.exits,
            last_exits=last_exits,
            stuck=conductor.stuck,
        )


@dataclass(order=True)
class _Ending:
    at: float
    number: int
    end: Callable[[], None] = field(compare=False)


class Conductor:
    """Watches the progress and begins and ends the faults."""

    def __init__(
        self, here: RunServices, fleet: Supervisor, app: Celery, options: Options, say: Callable[[str], None]
    ) -> None:
        self.injected: Counter[str] = Counter()
        self.seconds = 0.0
        self.stuck: str | None = None
        self.recovery = Recovery(here.engine)
        self._services = here
        self._fleet = fleet
        self._app = app
        self._options = options
        self._say = say
        self._rng = random.Random(f"moments {options.seed}")
        self._faults = Faults(here, fleet, app, self.recovery, self._rng)
        self._endings: list[_Ending] = []
        self._n_settled = 0
        self._moved_at = time.monotonic()

    def conduct(self) -> None:
        start = time.monotonic()
        producer = threading.Thread(target=self._produce, name="producer", daemon=True)
        producer.start()
        plan = self._options.plan()
        while plan and not self._given_up():
            self._await_moment()
            self._begin_one(plan)
        while self._endings:
            self._look()
        self._say("no more faults")
        while not self._done() and not self._given_up():
            self._look()
        self.seconds = time.monotonic() - start

    def _produce(self) -> None:
        for check, prefixes in PREFIXES.items():
            sources = [open_source(f"s3://{BUCKET}/{prefix}", self._services.settings) for prefix in prefixes]
            listing = Listing(sources, Filters())
            for _ in enqueue(
                self._services.engine, self._app, self._services.settings, listing=listing, check=load_check(check)
            ):
                pass

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
                begun = self._faults.begin(kind)
            except NotNow:
                continue
            plan.remove(kind)
            self.injected[kind] += 1
            self._moved_at = time.monotonic()  # the timeout begins anew: the fleet may need time to recover
            ending = _Ending(at=time.monotonic() + begun.seconds, number=sum(self.injected.values()), end=begun.end)
            heapq.heappush(self._endings, ending)
            self._say(f"{self._n_settled:6} settled  {kind}" + f" for {begun.seconds:.1f} s" * (begun.seconds > 0))
            return

    def _look(self) -> None:
        time.sleep(POLL_SECONDS)
        self._end_due()
        self.recovery.look()
        settled = self._count_settled()
        if settled > self._n_settled:
            self._n_settled, self._moved_at = settled, time.monotonic()

    def _end_due(self) -> None:
        while self._endings and self._endings[0].at <= time.monotonic():
            heapq.heappop(self._endings).end()

    def _count_settled(self) -> int:
        total = sa.select(sa.func.coalesce(sa.func.sum(Batch.n_verdicts + Batch.n_failures), 0))
        try:
            with reading(self._services.engine) as connection:
                return int(connection.execute(total).scalar_one())
        except DatabaseUnavailable:
            return 0

    def _done(self) -> bool:
        try:
            with reading(self._services.engine) as connection:
                states = connection.execute(sa.select(Scan.state)).scalars().all()
        except DatabaseUnavailable:
            return False
        return len(states) == len(PREFIXES) and set(states) == {"done"}

    def _given_up(self) -> bool:
        silent = time.monotonic() - self._moved_at
        if silent < self._options.patience_seconds:
            return False
        if self.stuck is None:
            self.stuck = f"no progress for {silent:.0f} s\n{what_is_stuck(self._services, self._fleet)}"
        return True
