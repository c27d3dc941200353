"""A late writer writes nothing; an image that kills workers is found, and no other is blamed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, now, reading, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.scans import batches, crash_isolation, retries, scans
from scanfleet.db.scans.batches import Claim, LeaseState
from scanfleet.db.tables import Batch, Failure, Image, Scan, Worker
from scanfleet.errors import LeaseLost
from tests.helpers.migrated import upgrade
from tests.ledger_machine.invariants import violations
from tests.ledger_machine.ledger import read
from tests.ledger_machine.small import Small
from tests.ledger_machine.workers import Answer, outcome


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=database_url, data_dir=tmp_path, model="fake"))
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("n_late", [45, pytest.param(300, marks=pytest.mark.slow)])
def test_late_writers_are_refused(engine: sa.Engine, n_late: int) -> None:
    """Each way of writing; with the batch ready again, held by another, held again by oneself, and done."""
    ledger = Small(engine, n_images=2, batch_images=2)
    batch = ledger.batch_ids[0]
    ways: list[Callable[[Claim], None]] = [
        ledger.write,
        lambda held: ledger.go_on(held, 0),
        lambda held: ledger.go_on(held, 1, known=[0]),
        ledger.hand_back,
        lambda held: ledger.hand_back(held, n_known=1),
        lambda held: _in(engine, lambda connection: batches.extend(connection, held, lease_seconds=60)),
        lambda held: _in(
            engine, lambda connection: batches.settle(connection, held, values={}, waiting_for="a transient error")
        ),
        lambda held: _in(engine, lambda connection: batches.give_back(connection, held, values={})),
        lambda held: _in(engine, lambda connection: batches.take_in_hand(connection, held, held.images[0].id)),
    ]
    late: list[Claim] = []
    refused = 0
    for number in range(n_late):
        if number % 3 == 0:
            late.append(ledger.must_claim(worker=f"w{number % 2}"))
            ledger.die()
        if number % 3 == 1:
            holder = ledger.must_claim(worker="w0")
        before = read(engine)
        with pytest.raises(LeaseLost):
            ways[number % len(ways)](late[number % len(late)])
        refused += 1
        assert read(engine) == before
        if number % 3 == 2:
            ledger.hand_back(holder)
    last = ledger.must_claim()
    ledger.write(last)
    done = read(engine)
    for held in [*late, last]:
        with pytest.raises(LeaseLost):
            ledger.write(held)
    assert read(engine) == done
    assert (refused, ledger.row(Batch, batch).n_verdicts) == (n_late, 2)


def test_the_batches_of_a_process_that_ended_are_free_before_their_leases_end(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=4, batch_images=2)
    ended, other = ledger.must_claim(worker="h-1-a"), ledger.must_claim(worker="h-2-b")
    with transaction(engine) as connection:
        common = {"host": "h", "queue": "q", "device": "cpu", "started_at": now(connection), "beat_at": now(connection)}
        for number, name in ((1, "h-1-a"), (2, "h-2-b")):
            connection.execute(sa.insert(Worker).values(id=name, pid=number, **common))
    with transaction(engine) as connection:
        assert crash_isolation.expire_leases(connection).n == 0
        assert crash_isolation.expire_worker(connection, host="h", pid=1).n == 1
    assert ledger.row(Batch, ended.batch_id).state == "ready"
    assert ledger.row(Batch, other.batch_id).state == "leased"


def _in(engine: sa.Engine, call: Callable[[sa.Connection], None]) -> None:
    with transaction(engine) as connection:
        call(connection)


def test_the_first_crash_makes_a_suspect_and_blames_nobody(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=3, batch_images=3)
    assert not ledger.must_claim().suspect
    ledger.pass_time()
    assert ledger.expire() == crash_isolation.Expired(n=1)
    batch = ledger.rows(Batch)[0]
    assert (batch.state, batch.suspect, batch.crashes, batch.not_before, batch.in_hand) == (
        "ready",
        True,
        1,
        None,
        None,
    )
    assert [image.crashes for image in ledger.rows(Image)] == [0, 0, 0]
    held = ledger.must_claim()  # at once: most workers die for reasons of their own
    assert held.suspect
    assert len(held.images) == 3


def test_only_the_image_in_hand_is_blamed_and_comes_last(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=3, batch_images=3)
    ledger.must_claim()
    ledger.die()
    held = ledger.must_claim()
    ledger.go_on(held, 0)
    ledger.go_on(held, 1, known=[0])
    assert ledger.rows(Batch)[0].in_hand == held.images[1].id
    ledger.die()
    assert [image.crashes for image in ledger.rows(Image)] == [0, 1, 0]
    again = ledger.must_claim()
    assert [image.id for image in again.images] == [held.images[2].id, held.images[1].id]
    assert [image.crashes for image in again.images] == [0, 1]


def test_the_third_crash_in_hand_quarantines_and_the_neighbours_go_on(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=3, batch_images=3)
    killer = ledger.must_claim().images[1].id
    ledger.die()
    for crash in range(1, 4):
        held = ledger.must_claim()
        ledger.go_on(held, [image.id for image in held.images].index(killer))
        expired = ledger.die()
        assert expired.quarantined == ((killer,) if crash == 3 else ())
    failure = ledger.row(Failure, killer)
    assert (failure.stage, failure.reason) == ("process", "kills_the_worker")
    assert [image.state for image in ledger.rows(Image)] == ["pending", "failed", "pending"]
    batch = ledger.rows(Batch)[0]
    assert (batch.state, batch.crashes, batch.not_before, batch.waiting_for) == ("ready", 0, None, None)
    ledger.write(ledger.must_claim())
    assert ledger.row(Scan, ledger.scan_id).state == "done"
    assert [image.crashes for image in ledger.rows(Image)] == [0, 3, 0]
    assert violations(read(engine)) == []


def _quarantine(ledger: Small) -> None:
    """The only image that is left kills four workers in a row."""
    ledger.must_claim()
    ledger.die()
    for _ in range(3):
        ledger.go_on(ledger.must_claim(), 0)
        ledger.die()


def test_quarantining_the_last_image_closes_batch_and_scan(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=1, batch_images=1)
    _quarantine(ledger)
    batch = ledger.rows(Batch)[0]
    assert (batch.state, batch.n_failures) == ("done", 1)
    assert batch.finished_at is not None
    with transaction(engine) as connection:
        assert scans.finish_all_complete(connection) == 1
    assert violations(read(engine)) == []


def test_a_quarantined_image_that_is_retried_runs_alone_again(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=1, batch_images=1)
    _quarantine(ledger)
    with transaction(engine) as connection:
        scans.finish_all_complete(connection)
        assert retries.retry_failures(connection, ledger.scan_id, reason=crash_isolation.KILLER) == 1
    assert ledger.row(Scan, ledger.scan_id).state == "running"
    held = ledger.must_claim()
    assert (held.suspect, held.attempts, held.images[0].crashes) == (True, 1, 0)
    ledger.go_on(held, 0)
    ledger.die()
    assert ledger.rows(Image)[0].crashes == 1  # three more lives, not one
    ledger.write(ledger.must_claim())
    with transaction(engine) as connection:
        assert scans.get_scan(connection, ledger.scan_id).state == "done"
    assert violations(read(engine)) == []


def test_a_batch_that_crashes_again_and_again_waits_longer_and_says_why(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=2, batch_images=2)
    pauses: list[float] = []
    for _ in range(9):
        ledger.must_claim()
        ledger.pass_time()
        ledger.expire()
        batch = ledger.rows(Batch)[0]
        with reading(engine) as connection:
            at = now(connection)
        pauses.append(0.0 if batch.not_before is None else round((batch.not_before - at).total_seconds()))
        assert (batch.waiting_for is None) == (batch.not_before is None)
        ledger.pass_time()
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert "survives batch" in batch.waiting_for
    held = ledger.must_claim()
    ledger.go_on(held, 0)
    ledger.go_on(held, 1, known=[0])
    assert ledger.rows(Batch)[0].crashes == 0  # a result is progress


def test_lease_states_name_the_state_of_each_claim(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=4, batch_images=1)
    held = [ledger.must_claim() for _ in range(4)]

    def standing() -> list[LeaseState]:
        with reading(engine) as connection:
            found = batches.lease_states(connection, held)
        return [found[claim.batch_id] for claim in held]

    assert standing() == [LeaseState.HELD] * 4
    ledger.write(held[0])
    ledger.hand_back(held[1])
    with transaction(engine) as connection:
        connection.execute(sa.update(Batch).where(Batch.id == held[2].batch_id).values(lease_token=9))
        scans.pause(connection, ledger.scan_id)
    assert standing() == [LeaseState.LOST, LeaseState.LOST, LeaseState.LOST, LeaseState.PAUSED]
    with transaction(engine) as connection:
        scans.resume(connection, ledger.scan_id)
    assert standing()[3] is LeaseState.HELD
    with transaction(engine) as connection:
        scans.cancel(connection, ledger.scan_id)
    assert standing()[3] is LeaseState.LOST
    with reading(engine) as connection:
        assert batches.lease_states(connection, []) == {}


def test_a_suspect_whose_written_parts_were_lost_is_ready_again(engine: sa.Engine) -> None:
    """A database that was restored lost the first part; the worker writes the second as the end of the batch."""
    ledger = Small(engine, n_images=2, batch_images=2)
    ledger.must_claim()
    ledger.die()
    held = ledger.must_claim()
    last = outcome(ledger.scorer, held.images[1:], [Answer.CLEAR], store=True)
    with transaction(engine) as connection:
        verdicts.write(connection, held, last)
    batch = ledger.rows(Batch)[0]
    assert (batch.state, batch.finished_at, batch.lease_owner) == ("ready", None, None)
    assert ledger.row(Scan, ledger.scan_id).state == "running"
    assert [image.id for image in ledger.must_claim().images] == [held.images[0].id]


def test_taking_an_image_in_hand_begins_the_lease_anew(engine: sa.Engine) -> None:
    """A worker that was frozen past its lease, unnoticed, would otherwise have its next image blamed at once."""
    ledger = Small(engine, n_images=3, batch_images=3)
    ledger.must_claim()
    ledger.die()
    held = ledger.must_claim()
    ledger.go_on(held, 0)
    ledger.pass_time()
    ledger.go_on(held, 1, known=[0])
    assert ledger.expire().n == 0
    assert [row.crashes for row in ledger.rows(Image)] == [0, 0, 0]
