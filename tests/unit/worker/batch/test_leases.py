"""What a worker holds: until when it may be sure of it, and what ends it."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.results.scorers import scorer_id
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans import crash_isolation, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Image
from scanfleet.errors import ImageError
from scanfleet.worker.batch.commit import BatchWriter
from scanfleet.worker.batch.leases import Lease, Leases
from scanfleet.worker.batch.timing import Totals
from scanfleet.worker.runtime.utilisation import Occupancy
from tests.rigs.ledger_rig import flagged, scorer_spec
from tests.rigs.worker_rig import Rig, add_scan, rig

LEASE_SECONDS = 100.0


@dataclass
class Clock:
    """When the database was asked for a write: after the call, and before its answer."""

    asked: list[float] = field(default_factory=list)

    def __call__(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE batches"):
            self.asked.append(time.monotonic())


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, lease_seconds=LEASE_SECONDS) as made:
        yield made


@pytest.fixture
def clock(worker: Rig) -> Clock:
    clock = Clock()
    sa.event.listen(worker.engine, "before_cursor_execute", clock)
    return clock


@pytest.fixture
def leases(worker: Rig) -> Leases:
    return Leases(worker.engine, worker="w", lease_seconds=LEASE_SECONDS)


@pytest.fixture
def writer(worker: Rig) -> BatchWriter:
    return BatchWriter(worker.engine, worker.stop, Totals(Occupancy(), n_threads=1))


def hold(worker: Rig, leases: Leases, *, n_images: int = 2) -> Lease:
    add_scan(worker.engine, [NewImage(uri=f"mem://a/{number}") for number in range(n_images)])
    lease = leases.claim(model="fake", notified=None)
    assert lease is not None
    return lease


def forget(lease: Lease, clock: Clock) -> float:
    """Let the deadline lie in the past; returns the time."""
    lease.deadline = 0.0
    clock.asked.clear()
    return time.monotonic()


def assert_counted_from_the_question(lease: Lease, clock: Clock, before: float) -> None:
    """A deadline counted from the answer lies later than the database's own, by as much as the answer takes."""
    assert before <= lease.deadline - LEASE_SECONDS <= clock.asked[0]


def outcome(worker: Rig, lease: Lease, *, n_known: int) -> Outcome:
    with transaction(worker.engine) as connection:
        scorer = scorer_id(connection, scorer_spec(lease.claim.check_id))
    return Outcome(scorer_id=scorer, verdicts=[flagged(image) for image in lease.claim.images[:n_known]], failures={})


def row(worker: Rig) -> sa.Row[Any]:
    (found,) = worker.rows(Batch)
    return found


def test_the_deadline_of_a_claim_is_counted_from_the_question(worker: Rig, leases: Leases, clock: Clock) -> None:
    before = time.monotonic()
    lease = hold(worker, leases)
    assert_counted_from_the_question(lease, clock, before)
    assert (row(worker).lease_owner, lease.claim.worker) == ("w", "w")
    assert not lease.expired
    lease.deadline = time.monotonic()
    assert lease.expired


def test_a_heartbeat_counts_its_deadline_from_the_question(worker: Rig, leases: Leases, clock: Clock) -> None:
    lease = hold(worker, leases)
    before = forget(lease, clock)
    with transaction(worker.engine) as connection:
        connection.execute(sa.update(Batch).values(lease_until=sa.func.datetime("now", "+1 second")))
    clock.asked.clear()
    leases.beat()
    assert_counted_from_the_question(lease, clock, before)
    with reading(worker.engine) as connection:
        assert row(worker).lease_until <= now(connection) + timedelta(seconds=LEASE_SECONDS)
        assert row(worker).lease_until > now(connection) + timedelta(seconds=LEASE_SECONDS - 60)


def test_a_heartbeat_leaves_what_has_ended(worker: Rig, leases: Leases, clock: Clock) -> None:
    ended, released = hold(worker, leases), hold(worker, leases)
    ended.ended = True
    leases.release(released)
    assert released.ended
    clock.asked.clear()
    leases.beat()
    leases.check_scans()
    assert clock.asked == []


def test_a_written_part_begins_the_lease_anew_in_the_worker_too(
    worker: Rig, leases: Leases, clock: Clock, writer: BatchWriter
) -> None:
    lease = hold(worker, leases)
    first, second = lease.claim.images
    part = outcome(worker, lease, n_known=0)
    before = forget(lease, clock)
    lease.deadline = before + 30  # until then, the transaction is tried
    assert writer.write_part(lease, part, in_hand=first.id)
    assert_counted_from_the_question(lease, clock, before)
    assert not lease.ended
    assert writer.write_part(lease, outcome(worker, lease, n_known=1), in_hand=second.id)
    assert (row(worker).state, row(worker).in_hand, row(worker).n_verdicts) == ("leased", second.id, 1)


@pytest.mark.parametrize("way", ["write", "hand_back", "hand_back_all", "defer"])
def test_what_ends_a_batch_ends_its_lease_and_leaves_the_deadline(
    worker: Rig, leases: Leases, writer: BatchWriter, way: str
) -> None:
    lease = hold(worker, leases)
    deadline = lease.deadline
    done = {
        "write": lambda: writer.write(lease, outcome(worker, lease, n_known=2)),
        "hand_back": lambda: writer.hand_back(lease, outcome(worker, lease, n_known=1), reason="test"),
        "hand_back_all": lambda: writer.hand_back(lease, None, reason="test"),
        "defer": lambda: writer.defer(lease, "the store"),
    }[way]()
    assert done
    assert lease.ended
    assert lease.deadline == deadline
    expected = {"write": ("done", 2), "hand_back": ("ready", 1)}.get(way, ("ready", 0))
    assert (row(worker).state, row(worker).n_verdicts) == expected
    assert not writer.defer(lease, "a second end")
    assert row(worker).waiting_for == ("the store" if way == "defer" else None)


def test_what_was_written_is_counted_once_by_the_worker(worker: Rig, leases: Leases) -> None:
    totals = Totals(Occupancy(), n_threads=1)
    writer = BatchWriter(worker.engine, worker.stop, totals)
    lease = hold(worker, leases)
    failed = {lease.claim.images[1].id: ImageError(stage="fetch", reason="gone", detail="")}
    with capture_logs() as logs:
        assert writer.hand_back(lease, replace(outcome(worker, lease, n_known=1), failures=failed), reason="test")
        assert not writer.write(lease, outcome(worker, lease, n_known=2))
        n_images, sums = totals.read()
        assert (n_images, sums["write"]) == (2, 0.0)
        whole = hold(worker, leases)
        assert writer.write(whole, outcome(worker, whole, n_known=2))
    assert 0 < totals.read()[1]["write"] < 60
    written = [(entry["event"], entry["batch"]) for entry in logs if "verdicts" in entry]
    assert written == [("part_written", lease.claim.batch_id), ("batch_written", whole.claim.batch_id)]


def test_a_lost_lease_ends_the_batch_and_only_that(worker: Rig, leases: Leases) -> None:
    lost, held = hold(worker, leases), hold(worker, leases)
    said: list[tuple[str, str]] = []
    lost.abort = lambda why: said.append(("lost", why))
    held.abort = lambda why: said.append(("held", why))
    with transaction(worker.engine) as connection:
        other = sa.update(Batch).where(Batch.id == lost.claim.batch_id).values(lease_owner="another")
        connection.execute(other)
    leases.beat()
    assert (lost.ended, held.ended) == (True, False)
    assert [name for name, _ in said] == ["lost"]


@pytest.mark.parametrize("change", ["pause", "cancel"])
def test_a_scan_that_is_paused_or_cancelled_ends_its_batches_alone(worker: Rig, leases: Leases, change: str) -> None:
    stopped, going = hold(worker, leases), hold(worker, leases)
    said: list[str] = []
    stopped.abort, going.abort = lambda _: said.append("stopped"), lambda _: said.append("going")
    with transaction(worker.engine) as connection:
        getattr(scans, change)(connection, stopped.claim.scan_id)
    leases.check_scans()
    leases.check_scans()  # told once
    assert said == ["stopped"]
    assert (stopped.ended, stopped.paused) == (change == "cancel", change == "pause")
    assert stopped.unwanted
    assert not going.unwanted


def test_the_heartbeat_waits_for_a_transaction_that_ends_the_batch(worker: Rig, leases: Leases, clock: Clock) -> None:
    lease = hold(worker, leases)
    clock.asked.clear()
    beating = threading.Thread(target=leases.beat)
    with lease.lock:
        beating.start()
        beating.join(0.2)
        assert beating.is_alive()
        lease.ended = True
    beating.join(30)
    assert clock.asked == []


def test_only_an_image_under_way_at_a_crash_has_its_bytes_recorded(
    worker: Rig, leases: Leases, writer: BatchWriter
) -> None:
    lease = hold(worker, leases)
    assert writer.write_part(lease, outcome(worker, lease, n_known=0), in_hand=lease.claim.images[0].id)
    with transaction(worker.engine) as connection:
        connection.execute(sa.update(Batch).values(lease_until=sa.func.datetime("now", "-1 hour"), suspect=True))
        assert crash_isolation.expire_leases(connection).n == 1
        connection.execute(sa.update(Batch).values(not_before=None))
    again = leases.claim(model="fake", notified=None)
    assert again is not None
    for image in again.claim.images:
        writer.record_content(again, image, f"sha of {image.id}")
    assert not again.ended
    blamed = lease.claim.images[0].id
    found = {each.id: each.content_sha256 for each in worker.rows(Image)}
    assert found == {each: f"sha of {each}" if each == blamed else None for each in found}


def test_a_batch_that_ends_while_its_scan_is_looked_up_does_not_hide_the_others(worker: Rig, leases: Leases) -> None:
    both = [hold(worker, leases), hold(worker, leases)]
    said: list[Lease] = []
    for lease in both:
        lease.abort = lambda _, lease=lease: said.append(lease)
        with transaction(worker.engine) as connection:
            scans.pause(connection, lease.claim.scan_id)
    looked_up: list[int] = []

    def end(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "scan_state" in statement and not looked_up:
            looked_up.append(1)
            first.ended = True

    for first in both:  # the order of the look-up is not known
        looked_up.clear()
        said.clear()
        for lease in both:
            lease.ended = lease.paused = False
        sa.event.listen(worker.engine, "before_cursor_execute", end)
        leases.check_scans()
        sa.event.remove(worker.engine, "before_cursor_execute", end)
        assert said == [lease for lease in both if lease is not first]
