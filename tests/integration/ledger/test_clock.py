"""The ledger's clock jumps: nothing is lost or doubled, and the delay is bounded.

The clock cannot be set from here; moving every time that the ledger holds the other way is the same thing.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import MAX_LEASE_SECONDS
from scanfleet.db.clock import SLACK
from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.scans import batches, crash_isolation, notifications
from scanfleet.db.tables import Batch, Scan, Verdict
from scanfleet.retry import MAX_BACKOFF_SECONDS
from tests.rigs.worker_rig import Rig, png, rig

HOUR = 3600.0
MOVED = (Batch.lease_until, Batch.not_before, Batch.notified_at)
LONGEST_LEASE = MAX_LEASE_SECONDS + SLACK.total_seconds()
LONGEST_BACKOFF = MAX_BACKOFF_SECONDS + SLACK.total_seconds()


@pytest.fixture
def worker(tmp_path: Path, database_url: str) -> Iterator[Rig]:
    with rig(tmp_path, database_url=database_url, lease_seconds=60, reconcile_seconds=3600) as made:
        yield made


def jump(worker: Rig, seconds: float) -> None:
    """The clock goes forward by so much, or back."""
    with transaction(worker.engine) as connection:
        for row in connection.execute(sa.select(Batch.id, *MOVED)).all():
            times = {name: getattr(row, name) for name in ("lease_until", "not_before", "notified_at")}
            moved = {name: at - timedelta(seconds=seconds) for name, at in times.items() if at is not None}
            if moved:
                connection.execute(sa.update(Batch).where(Batch.id == row.id).values(moved))


def expire(worker: Rig) -> int:
    with transaction(worker.engine) as connection:
        return crash_isolation.expire_leases(connection).n


def n_due(worker: Rig) -> int:
    with transaction(worker.engine) as connection:
        return len(notifications.due_for_notification(connection, renotify_seconds=30, max_outstanding=100))


def claim(worker: Rig) -> batches.Claim | None:
    with transaction(worker.engine) as connection:
        return batches.claim(connection, model="fake", worker="another", lease_seconds=60)


def pictures(n: int) -> dict[str, bytes]:
    return {f"mem://{number}": png(number) for number in range(n)}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_the_lease_of_a_dead_worker_ends_at_once(worker: Rig, seconds: float) -> None:
    worker.scan(pictures(2))
    assert claim(worker) is not None
    assert expire(worker) == 0
    jump(worker, seconds)
    assert expire(worker) == 1
    worker.forget_backoff()
    worker.drain()
    assert set(worker.states().values()) == {"verdict"}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_notification_and_a_back_off_hold_nothing_up(worker: Rig, seconds: float) -> None:
    scan = worker.scan(pictures(2))
    worker.store.down = True
    worker.drain()
    worker.store.down = False
    with transaction(worker.engine) as connection:  # errors of the store are not tested here
        connection.execute(sa.update(Scan).values(not_before=None, trouble=0))
        connection.execute(sa.update(Batch).values(not_before=now(connection) + timedelta(seconds=50)))
    assert n_due(worker) == 0
    assert claim(worker) is None
    jump(worker, seconds)
    assert n_due(worker) == 1
    assert n_due(worker) == 0  # it was notified
    jump(worker, seconds)
    assert n_due(worker) == 1
    worker.drain()
    assert worker.progress(scan).n_verdicts == 2


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_jump_under_a_living_worker_costs_work_and_no_verdict(worker: Rig, seconds: float) -> None:
    """Its lease is taken away, another one scores the batch, and what it writes late changes nothing."""
    scan = worker.scan(pictures(4))
    held = worker.pipeline.leases.claim(model="fake", notified=None)
    assert held is not None
    jump(worker, seconds)
    assert expire(worker) == 1
    worker.forget_backoff()
    worker.drain()
    before = worker.rows(Verdict)
    worker.pipeline.leases.beat()
    assert held.ended  # it learns that at its next heartbeat
    assert worker.rows(Verdict) == before
    assert worker.progress(scan).n_verdicts == 4
    assert worker.rows(Scan)[0].state == "done"


@pytest.mark.parametrize("seconds", [-HOUR, -200.0, HOUR])
def test_a_heartbeat_after_a_jump_keeps_the_batch(worker: Rig, seconds: float) -> None:
    worker.scan(pictures(4))
    held = worker.pipeline.leases.claim(model="fake", notified=None)
    assert held is not None
    jump(worker, seconds)
    worker.pipeline.leases.beat()
    assert not held.ended
    assert expire(worker) == 0
    worker.pipeline.leases.release(held)


@pytest.mark.parametrize("back", [60.0, 300.0, 700.0, HOUR])
def test_however_far_the_clock_is_set_back_the_delay_is_bounded(worker: Rig, back: float) -> None:
    """A lease or a back-off that now lies ahead is either within its bound or counts as past."""
    worker.scan(pictures(2), batch_images=1)
    assert claim(worker) is not None
    with transaction(worker.engine) as connection:
        soon = now(connection) + timedelta(seconds=1)
        connection.execute(sa.update(Batch).where(Batch.state == "ready").values(not_before=soon))
    jump(worker, -back)
    with reading(worker.engine) as connection:
        at = now(connection)
        lease_until = connection.execute(sa.select(Batch.lease_until).where(Batch.state == "leased")).scalar_one()
        not_before = connection.execute(sa.select(Batch.not_before).where(Batch.state == "ready")).scalar_one()
    notified, freed = n_due(worker), expire(worker)
    assert freed == (lease_until - at > timedelta(seconds=LONGEST_LEASE))
    assert notified == (not_before - at > timedelta(seconds=LONGEST_BACKOFF))
    jump(worker, LONGEST_LEASE)  # that long later at most
    assert expire(worker) + freed == 1
    worker.forget_backoff()
    worker.drain()
    assert set(worker.states().values()) == {"verdict"}
