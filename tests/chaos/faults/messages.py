"""Notifications that nobody sent for a reason."""

from __future__ import annotations

import sqlalchemy as sa
from kombu import Queue
from kombu.exceptions import OperationalError

from scanfleet.db.engine import reading
from scanfleet.db.tables import Batch
from scanfleet.errors import BrokerUnavailable, DatabaseUnavailable
from scanfleet.messages import SCORE_BATCH, score_queue
from scanfleet.queue.app import notify
from tests.chaos.archive import MODEL, TWIN
from tests.chaos.faults.base import Begun, Fault, Ground, NotNow

QUEUES = (score_queue(MODEL), score_queue(TWIN))
BOGUS_BATCHES = (10**12, 10**12 + 1)
BOGUS_FIELDS: tuple[dict[str, object], ...] = (
    {"batch_id": 0},
    {"batch_id": -1},
    {"batch_id": "1"},
    {"batch_id": 1, "also": "this"},
    {},
)


def duplicates(ground: Ground) -> Begun:
    """Send repeated notifications about batches in any state, of either model, and about ones that do not exist."""
    ground.need("broker", "database")
    rng, app = ground.rng, ground.app
    try:
        with reading(ground.services.engine) as connection:
            known = connection.execute(sa.select(Batch.id)).scalars().all()
        for batch_id in (*rng.choices(known or BOGUS_BATCHES, k=30), *BOGUS_BATCHES):
            for _ in range(rng.randint(1, 3)):
                notify(app, queue=rng.choice(QUEUES), batch_id=batch_id)
        for queue in map(Queue, QUEUES):
            for fields in BOGUS_FIELDS:
                app.send_task(SCORE_BATCH, kwargs=fields, queue=queue)
            app.send_task("no_such_task", queue=queue)
    except (DatabaseUnavailable, BrokerUnavailable, OperationalError):
        raise NotNow from None
    return Begun()


FAULTS: dict[str, Fault] = {"duplicates": duplicates}
