"""PostgreSQL runs transactions at the same time; SQLite, one after the other. Whatever meets, the ledger is sound."""

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db import leases
from scanfleet.db.engine import connect, now, transaction
from scanfleet.db.results import verdicts
from scanfleet.db.scans import batches, crash_isolation, new_images, retries, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import RequestError
from tests.helpers.migrated import upgrade
from tests.helpers.patience import patient, until_waited_for
from tests.ledger_machine.invariants import forgotten, violations
from tests.ledger_machine.ledger import QUEUE, read
from tests.ledger_machine.races import Race, Scene, run_together, shuffled
from tests.ledger_machine.small import Small
from tests.ledger_machine.workers import Answer, outcome

RACES = (
    "claim claim claim",
    "settle settle",  # also the last two batches of a scan
    "settle_same settle_same",
    "settle expire",
    "settle cancel",
    "settle extend expire",
    "part expire",
    "part cancel",
    "hand_back expire",
    "hand_back claim",
    "extend expire",
    "expire expire",
    "reconcile reconcile settle",
    "notify notify",
    "notify claim",
    "notify cancel",
    "unnotify cancel",
    "unnotify notify retry",
    "retry settle",
    "retry settle_same",
    "retry settle settle",
    "retry retry",
    "retry cancel",
    "retry expire",
    "hold hold",
    "hold_all hold_all",
    "hold release",
    "hold cancel",
    "hold notify",
    "release cancel",
    "pause claim",
    "pause settle",
    "cancel cancel",
    "cancel claim",
    "cancel expire",
    "list cancel",
    "list settle",
    "list retry",
    "list hold",
    "list list cancel",
)
EACH = 3  # states for each race


@pytest.fixture
def engine(pg_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=pg_url, data_dir=tmp_path, model="fake"))
    upgrade(engine)
    yield engine
    engine.dispose()


def run_races(engine: sa.Engine, *, each: int, seed: int) -> Counter[str]:
    """How many deadlocks PostgreSQL found, by race."""
    racing = shuffled(sa.create_engine(engine.url, pool_size=4))
    deadlocks: Counter[str] = Counter()
    for race in RACES:
        for number in range(each):
            scene = Scene(engine, random.Random(f"{seed} {race} {number}"))
            acts = [scene.act(name, at) for at, name in enumerate(race.split())]
            before = read(engine)
            result = run_together(racing, acts)
            after = read(engine)
            faults = violations(after) + forgotten(before, after) + [repr(error) for error in result.surprises]
            assert not faults, f"{race}, seed {seed}, number {number}: {'; '.join(faults)}"
            deadlocks[race] += result.deadlocks
    racing.dispose()
    return +deadlocks


def test_whatever_meets_leaves_a_sound_ledger_and_no_deadlock(engine: sa.Engine) -> None:
    assert run_races(engine, each=EACH, seed=1) == Counter()


@pytest.mark.slow
def test_the_same_for_longer_and_with_other_states_each_time(engine: sa.Engine) -> None:
    seed = int(os.environ.get("TEST_SEED", 0)) or int.from_bytes(os.urandom(4), "big")
    assert run_races(engine, each=10 * EACH, seed=seed) == Counter()


def test_a_retry_that_meets_a_cancellation_half_way_is_refused(engine: sa.Engine) -> None:
    ledger = Small(engine, n_images=2, batch_images=1)
    ledger.write(ledger.must_claim(), [Answer.BROKEN])
    other = sa.create_engine(engine.url)

    def cancel_now(connection: sa.Connection, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE batches") and ledger.row(Scan, ledger.scan_id).state == "running":
            with transaction(other) as meanwhile:
                scans.cancel(meanwhile, ledger.scan_id)

    def retry() -> None:
        with transaction(engine) as connection:
            sa.event.listen(connection, "before_cursor_execute", cancel_now)
            retries.retry_failures(connection, ledger.scan_id)

    with pytest.raises(RequestError, match="was cancelled"):
        retry()
    other.dispose()
    assert violations(read(engine)) == []
    assert {batch.state for batch in ledger.rows(Batch)} == {"done", "cancelled"}


def test_a_batch_whose_key_alone_is_held_is_claimed_and_expires_and_nobody_waits(engine: sa.Engine) -> None:
    """Another worker has the first batch in hand and its scan too; rows that name the second one are being written."""
    ledger = Small(engine, n_images=2, batch_images=1)
    impatient = sa.create_engine(engine.url, connect_args={"options": "-c lock_timeout=2s"})
    first, second = (sa.select(Batch.id).where(Batch.id == batch_id) for batch_id in ledger.batch_ids)
    with transaction(engine) as connection:
        connection.execute(first.with_for_update(key_share=True))
        connection.execute(sa.select(Scan.id).with_for_update(key_share=True))
        connection.execute(second.with_for_update(read=True, key_share=True))
        with transaction(impatient) as other:
            held = batches.claim(other, model="fake", worker="a", lease_seconds=-1)
    assert held is not None
    assert held.batch_id == ledger.batch_ids[1]
    with transaction(engine) as connection:
        assert batches.claim(connection, model="fake", worker="b", lease_seconds=-1) is not None
    with transaction(engine) as connection:
        connection.execute(first.with_for_update(key_share=True))
        connection.execute(second.with_for_update(read=True, key_share=True))
        with transaction(impatient) as other:
            assert crash_isolation.expire_leases(other).n == 1
    impatient.dispose()
    assert [batch.state for batch in ledger.rows(Batch)] == ["leased", "ready"]


def test_notifications_are_marked_in_the_order_of_ids(engine: sa.Engine) -> None:
    """As all writers lock: else one that has the first batch and asks for the second one meets a deadlock."""
    ledger = Small(engine, n_images=2, batch_images=1)
    first, second = (sa.select(Batch.id).where(Batch.id == batch_id) for batch_id in ledger.batch_ids)
    with transaction(engine) as connection:  # from now on PostgreSQL comes to the first one last
        connection.execute(sa.update(Batch).where(Batch.id == ledger.batch_ids[0]).values(waiting_for="x"))

    def mark() -> None:
        with transaction(engine) as connection:
            leases.mark_notified(connection, ledger.batch_ids, table=Batch, at=now(connection))

    with ThreadPoolExecutor(1) as pool:
        with transaction(engine) as connection:
            connection.execute(first.with_for_update(key_share=True))
            marking = pool.submit(mark)
            until_waited_for(connection)
            connection.execute(second.with_for_update(key_share=True))
        marking.result(patient(30))
    assert all(batch.notified_at is not None for batch in ledger.rows(Batch))


def test_a_worker_and_a_retry_do_not_wait_for_each_other_for_the_scan(engine: sa.Engine) -> None:
    """Both hold its key by then: the worker's verdict names it, and so does the batch that the retry wrote twice."""
    ledger = Small(engine, n_images=2, batch_images=1)
    ledger.write(ledger.must_claim(), [Answer.BROKEN])
    last = ledger.must_claim()
    other = sa.create_engine(engine.url, connect_args={"options": "-c lock_timeout=2s"})
    retried: list[int] = []

    def retry_now(connection: sa.Connection, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT scans.id") and not retried:  # it asks whether the scan is done
            with transaction(other) as meanwhile:
                retried.append(retries.retry_failures(meanwhile, ledger.scan_id))

    with transaction(engine) as connection:
        sa.event.listen(connection, "before_cursor_execute", retry_now)
        verdicts.write(connection, last, outcome(ledger.scorer, last.images, [Answer.CLEAR], store=True))
    other.dispose()
    assert retried == [1]
    assert violations(read(engine)) == []
    assert [batch.state for batch in ledger.rows(Batch)] == ["ready", "done"]
    assert ledger.row(Scan, ledger.scan_id).state == "running"


def test_a_cancellation_lets_a_worker_pass_that_writes_a_batch_listed_meanwhile(engine: sa.Engine) -> None:
    """It holds the scan that the worker will ask for; so it must not wait for the worker's batch."""
    ledger = Small(engine, n_images=1, batch_images=1)
    with transaction(engine) as connection:
        connection.execute(sa.update(Scan).values(trouble=1))  # so that the worker asks for the scan
    other = sa.create_engine(engine.url)
    scan_held, batch_held = threading.Event(), threading.Event()
    writers: list[threading.Thread] = []
    results: list[Race] = []

    def wait_for_the_scan(connection: sa.Connection, cursor: object, statement: str, *_: object) -> None:
        if "INSERT INTO verdicts" in statement:
            batch_held.set()
            assert scan_held.wait(10)

    def list_and_write() -> None:
        with transaction(other) as connection:
            (batch_id,) = new_images.add_images(
                connection, scan_id=ledger.scan_id, queue=QUEUE, images=[NewImage(uri="late")], batch_images=1
            )
        with transaction(other) as connection:
            held = batches.claim(connection, model="fake", worker="w", lease_seconds=60, notified=batch_id)
        assert held is not None

        def write(connection: sa.Connection) -> None:
            verdicts.write(connection, held, outcome(ledger.scorer, held.images, [Answer.CLEAR], store=True))

        sa.event.listen(other, "before_cursor_execute", wait_for_the_scan)
        writers.append(threading.Thread(target=lambda: results.append(run_together(other, [write]))))
        writers[0].start()

    def meanwhile(connection: sa.Connection, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE scans") and not writers:
            list_and_write()
            assert batch_held.wait(10)

    def scan_is_held(connection: sa.Connection, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE scans"):
            scan_held.set()

    with transaction(engine) as connection:
        sa.event.listen(connection, "before_cursor_execute", meanwhile)
        sa.event.listen(connection, "after_cursor_execute", scan_is_held)
        scans.cancel(connection, ledger.scan_id)
    writers[0].join()
    other.dispose()
    assert [race.errors for race in results] == [[]]
    assert violations(read(engine)) == []
    assert [batch.state for batch in ledger.rows(Batch)] == ["cancelled", "done"]
