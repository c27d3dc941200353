"""A run from its start to its audit: enqueue, faults during the work, then none, then the count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from scanfleet.queue.app import make_app
from tests.chaos.archive import make_archive
from tests.chaos.audit import Audit, audit
from tests.chaos.conductor import Conductor
from tests.chaos.expected import Listed, expected_rows
from tests.chaos.faults.messages import QUEUES
from tests.chaos.fleet.services import run_services
from tests.chaos.fleet.supervisor import Supervisor
from tests.chaos.options import Options
from tests.chaos.recovery import Recovery


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run. seconds: from the first image enqueued to the last one settled."""

    options: Options
    audit: Audit
    faults: Counter[str]
    seconds: float
    setup_seconds: float
    recovery: Recovery
    undone: list[int]  # settled images that each restore of the database took back
    restarts: int
    exits: Counter[int]  # exit codes of workers during the run; -9: killed
    last_exits: Counter[int]  # of the workers stopped at the end
    stuck: str | None  # what the fleet waits for, as text; None: it finished

    @property
    def holds(self) -> bool:
        return self.stuck is None and self.audit.holds and sum(self.faults.values()) == self.options.faults


def run(options: Options, *, say: Callable[[str], None] = lambda _: None) -> Result:
    """Run what is `possible`. Raises the errors of the tests' services; a fleet that fails is a Result."""
    items = list(make_archive(images=options.images, seed=options.seed, poison=options.n_poison))
    disks = any(kind.endswith("_full") for kind in options.kinds)
    with run_services(options, items, disks=disks) as here, make_app(here.settings, QUEUES) as app:
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
        now = time.monotonic()
        listed = conductor.producers.listed() or [  # a fleet that is stuck has lost images
            Listed(scan=scan, began=now, ended=now) for scan in conductor.producers.scans
        ]
        expected = expected_rows(listed, items, conductor.ground.changes, max_pixels=here.settings.max_image_pixels)
        return Result(
            options=options,
            audit=audit(here.engine, expected),
            faults=conductor.injected,
            seconds=conductor.seconds,
            setup_seconds=here.setup_seconds,
            recovery=conductor.recovery,
            undone=conductor.ground.undone,
            restarts=fleet.n_restarts,
            exits=fleet.exits,
            last_exits=last_exits,
            stuck=conductor.stuck,
        )
