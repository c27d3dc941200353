"""The faults, one method for each kind. A fault begins now and may have to be ended some seconds later."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from scanfleet.db.engine import reading, transaction
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import BrokerUnavailable, DatabaseUnavailable
from scanfleet.messages import SCORE_BATCH, score_queue
from scanfleet.queue.app import notify
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.recovery import Recovery
from tests.chaos.services import LEASE_SECONDS, RunServices
from tests.chaos.supervisor import Slot, Supervisor

JUMP = timedelta(hours=1)
BOGUS_BATCHES = (10**12, 10**12 + 1)
BOGUS_FIELDS: tuple[dict[str, object], ...] = (
    {"batch_id": 0},
    {"batch_id": -1},
    {"batch_id": "1"},
    {"batch_id": 1, "also": "this"},
    {},
)
QUEUE = score_queue("fake")


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A fault under way. `end` undoes it; call it after `seconds`."""

    seconds: float = 0.0
    end: Callable[[], None] = lambda: None


class NotNow(Exception):
    """This fault is impossible at the moment: there is no target."""


class Faults:
    """`begin(kind)`: raises NotNow."""

    def __init__(
        self, services: RunServices, fleet: Supervisor, app: Celery, recovery: Recovery, rng: random.Random
    ) -> None:
        self._services = services
        self._fleet = fleet
        self._app = app
        self._recovery = recovery
        self._rng = rng

    def begin(self, kind: str) -> Begun:
        service, _, fault = kind.partition("_")
        if fault in ("cut", "silent"):
            return self._break_connections(service, silently=fault == "silent")
        begun: Begun = getattr(self, f"_{kind}")()
        return begun

    # workers

    def _kill9(self) -> Begun:
        slot = self._some_worker()
        pid = slot.pid
        slot.signal(signal.SIGKILL)
        if pid is not None:
            self._recovery.killed(pid)
        return Begun()

    def _freeze(self) -> Begun:
        slot = self._some_worker()
        frozen = slot.process
        slot.signal(signal.SIGSTOP)
        slot.frozen = True
        short, long = (0.3, 2.0), (1.2 * LEASE_SECONDS, 2.5 * LEASE_SECONDS)

        def thaw() -> None:
            if frozen is slot.process:
                slot.signal(signal.SIGCONT)
                slot.frozen = False

        return Begun(seconds=self._rng.uniform(*self._rng.choice((short, long))), end=thaw)

    def _sigterm(self) -> Begun:
        slot = self._some_worker()
        slot.signal(signal.SIGTERM)
        if self._rng.random() < 0.5:
            return Begun()
        return Begun(seconds=0.3, end=lambda: slot.signal(signal.SIGTERM))  # the second one: hand back at once

    def _some_worker(self) -> Slot:
        alive = [slot for slot in self._fleet.slots if slot.pid is not None and not slot.frozen]
        if not alive:
            raise NotNow
        return self._rng.choice(alive)

    # broker and database

    def _broker_kill(self) -> Begun:
        self._take_down("broker")
        self._services.redis.kill()
        return Begun(seconds=self._rng.uniform(0.2, 3.0), end=self._broker_up)

    def _broker_restart(self) -> Begun:
        self._take_down("broker")
        self._services.redis.stop()
        self._broker_up()
        return Begun()

    def _broker_flush(self) -> Begun:
        self._need("broker")
        self._services.redis.flush()
        return Begun()

    def _database_kill(self) -> Begun:
        self._take_down("database")
        self._services.postgres.kill()
        return Begun(seconds=self._rng.uniform(0.2, 3.0), end=self._database_up)

    def _database_restart(self) -> Begun:
        self._take_down("database")
        self._services.postgres.stop()
        self._database_up()
        return Begun()

    def _broker_up(self) -> None:
        self._services.redis.start()
        self._services.down.discard("broker")

    def _database_up(self) -> None:
        self._services.postgres.start()
        self._services.down.discard("database")

    def _take_down(self, service: str) -> None:
        self._need(service)
        self._services.down.add(service)

    def _need(self, service: str) -> None:
        if service in self._services.down:
            raise NotNow

    # the network

    def _break_connections(self, service: str, *, silently: bool) -> Begun:
        links = self._some_links(service)
        for proxy in links:
            if silently:
                proxy.silence()
            else:
                proxy.cut()
        if not silently or self._rng.random() < 0.5:
            return Begun()
        return self._keep(links, "swallow")  # new connections are silenced as well

    def _s3_errors(self) -> Begun:
        return self._misbehave("refuse")

    def _s3_slow(self) -> Begun:
        return self._misbehave("slow")

    def _s3_truncated(self) -> Begun:
        return self._misbehave("truncate")

    def _misbehave(self, mode: Mode) -> Begun:
        links = [proxy for proxy in self._some_links("s3") if proxy.mode == "pass"]
        if not links:
            raise NotNow
        return self._keep(links, mode)

    def _keep(self, links: Sequence[Proxy], mode: Mode) -> Begun:
        for proxy in links:
            proxy.mode = mode

        def heal() -> None:
            for proxy in links:
                proxy.mode = "pass"

        return Begun(seconds=self._rng.uniform(1.0, 4.0), end=heal)

    def _some_links(self, service: str) -> Sequence[Proxy]:
        """The links of one machine, or of all."""
        links = self._services.links[service]
        return links if self._rng.random() < 0.5 else [self._rng.choice(links)]

    # messages and clocks

    def _duplicates(self) -> Begun:
        """Send repeated notifications about batches in any state, and about batches that do not exist."""
        self._need("broker")
        self._need("database")
        try:
            with reading(self._services.engine) as connection:
                known = connection.execute(sa.select(Batch.id)).scalars().all()
            for batch_id in (*self._rng.choices(known or BOGUS_BATCHES, k=30), *BOGUS_BATCHES):
                for _ in range(self._rng.randint(1, 3)):
                    notify(self._app, queue=QUEUE, batch_id=batch_id)
            for fields in BOGUS_FIELDS:
                self._app.send_task(SCORE_BATCH, kwargs=fields, queue=Queue(QUEUE))
            self._app.send_task("no_such_task", queue=Queue(QUEUE))
        except (DatabaseUnavailable, BrokerUnavailable, OperationalError):
            raise NotNow from None
        return Begun()

    def _clock_jump(self) -> Begun:
        """Move all times of the ledger by an hour, as if its clock moved the other way."""
        self._need("database")
        by = sa.literal(self._rng.choice((JUMP, -JUMP)), sa.Interval())
        try:
            with transaction(self._services.engine) as connection:
                connection.execute(sa.text("SET LOCAL lock_timeout = '2s'"))  # a frozen worker may hold a row
                for table, names in ((Batch, ("lease_until", "not_before", "notified_at")), (Scan, ("not_before",))):
                    columns = table.__table__.c
                    moved = {name: columns[name] + by for name in names if name in columns}
                    if moved:
                        connection.execute(sa.update(table).values(moved))
        except DatabaseUnavailable:
            raise NotNow from None
        return Begun()
