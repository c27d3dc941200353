"""One reconciler in the fleet at a time: who runs rounds, who takes over, and what the others ask the database."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery

from scanfleet import reconcile
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, now, transaction
from scanfleet.db.scans import scans
from scanfleet.db.scans.workers import News, start_worker, stop_worker
from scanfleet.db.tables import Batch, Scan, Training, Worker
from scanfleet.queue.app import make_app
from scanfleet.reconcile import ROUND_LOCK, Reconciled, Reconciler, attended_seconds
from scanfleet.worker.processes.registration import Row, beat_seconds
from scanfleet.worker.processes.timers import timers_on_ledger
from tests.helpers.migrated import upgrade
from tests.ledger_machine.ledger import QUEUE
from tests.ledger_machine.small import Small
from tests.rigs.worker_rig import png, rig

NOTHING = Reconciled()


@dataclass
class Statements:
    """What an engine sends. BEGIN and COMMIT count; PostgreSQL's settings of a transaction are one statement more."""

    engine: sa.Engine
    texts: list[str] = field(default_factory=list)
    calls: dict[str, tuple[str, Any]] = field(default_factory=dict)  # by text: the statement with its parameters
    n_transactions: int = 0

    def __post_init__(self) -> None:
        sa.event.listen(self.engine, "before_cursor_execute", self._executed)
        sa.event.listen(self.engine, "commit", self._ended)

    def _executed(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            self.texts.append(statement)
            self.calls[statement] = (statement, parameters)

    def _ended(self, _: Any) -> None:
        self.n_transactions += 1

    @property
    def n(self) -> int:
        return len(self.texts) + 3 * self.n_transactions


class Member:
    """A worker of the fleet: its row, its heartbeat and its reconciler. Without a name: a waiting command."""

    def __init__(self, engine: sa.Engine, app: Celery, settings: Settings, name: str) -> None:
        self.name, self.busy = name, False
        self.engine = engine
        with transaction(engine) as connection:
            start_worker(connection, worker=name, host="h", pid=1, queue=QUEUE, device="none")
        self.row = Row(engine, name, settings)
        self.reconciler = Reconciler(
            engine, app, settings, worker=name, news=lambda: self.row.news, busy=lambda: self.busy
        )

    def round(self) -> Reconciled:
        """A heartbeat, and the timer."""
        self.row.update()
        return self.reconciler.check()

    @property
    def reconciles(self) -> bool:
        """Whether it has run the newest round of all."""
        with transaction(self.engine) as connection:
            newest = sa.select(Worker.id).where(Worker.reconciled_at.is_not(None))
            found = connection.execute(newest.order_by(Worker.reconciled_at.desc()).limit(1)).scalar_one_or_none()
        return found == self.name


@dataclass(frozen=True)
class Place:
    engine: sa.Engine
    app: Celery
    settings: Settings
    ledger: Small

    def worker(self, name: str) -> Member:
        return Member(self.engine, self.app, self.settings, name)

    def command(self) -> Reconciler:
        return Reconciler(self.engine, self.app, self.settings, busy=lambda: True)

    def pass_time(self, seconds: float) -> None:
        """Let so long pass since every round and every claim."""
        with transaction(self.engine) as connection:
            for table, column in ((Worker, "reconciled_at"), (Batch, "lease_until")):
                names: Any = table.__table__.c
                for row in connection.execute(sa.select(names.id, names[column]).where(names[column].is_not(None))):
                    earlier = {column: row[1] - timedelta(seconds=seconds)}
                    connection.execute(sa.update(table).where(names.id == row.id).values(earlier))


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    settings = load_settings(database_url=database_url, data_dir=tmp_path, model="fake")
    engine = connect(settings)
    upgrade(engine)
    with make_app(settings, (QUEUE,)) as app:
        yield Place(engine, app, settings, Small(engine, n_images=4, batch_images=1))
    engine.dispose()


def test_one_of_two_workers_reconciles_and_the_other_asks_nothing(place: Place) -> None:
    first, second = place.worker("a"), place.worker("b")
    assert first.round().notified == 4
    second.row.update()
    sent = Statements(place.engine)
    for _ in range(5):
        assert second.reconciler.check() == NOTHING
    assert sent.n == 0
    first.reconciler.check()
    assert first.reconciles


@pytest.mark.parametrize("end", ["silent", "stopped"])
def test_another_takes_over_from_a_worker_that_has_ended(place: Place, end: str) -> None:
    first, second = place.worker("a"), place.worker("b")
    held = place.ledger.must_claim(worker="a")
    first.round()
    assert second.round() == NOTHING
    if end == "silent":
        place.pass_time(attended_seconds(place.settings) + 0.1)
        assert second.round() == NOTHING  # its turn, and the lease has not expired
    else:
        with transaction(place.engine) as connection:
            stop_worker(connection, "a")
        assert second.round() == NOTHING
    assert second.reconciles
    place.pass_time(60)
    assert second.round().expired == 1
    assert held.batch_id in {row.id for row in place.ledger.rows(Batch, Batch.state == "ready")}
    if end == "silent":  # it was frozen, and wakes up
        assert first.reconciler.check() == NOTHING
        assert second.reconciles


def test_a_worker_that_dies_inside_its_round_leaves_it_to_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = place.worker("a"), place.worker("b")
    place.ledger.must_claim(worker="x")
    place.pass_time(61)

    def die(_: sa.Connection) -> int:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(reconcile.workers, "mark_reconciled", lambda connection, _: die(connection))
        with pytest.raises(SystemExit):
            first.round()
    assert second.round().expired == 1
    assert second.reconciles


def test_a_round_under_way_elsewhere_is_not_waited_for(place: Place) -> None:
    if place.engine.dialect.name == "sqlite":
        pytest.skip("its one write lock is waited for")
    second = place.worker("b")
    place.ledger.must_claim(worker="x")
    place.pass_time(61)
    other = connect(place.settings)
    with other.connect() as frozen, frozen.begin() as round_:
        frozen.execute(sa.select(sa.func.pg_try_advisory_xact_lock(ROUND_LOCK)))
        assert second.round() == NOTHING
        round_.rollback()
    other.dispose()
    assert second.round().expired == 1


def test_two_that_begin_at_once_agree_at_the_next_round(place: Place) -> None:
    first, second = place.worker("a"), place.worker("b")
    first.row.update()
    second.row.update()  # neither knows of the other
    first.reconciler.check()
    with transaction(place.engine) as connection:
        at = now(connection) + timedelta(milliseconds=1)
        connection.execute(sa.update(Worker).where(Worker.id == "b").values(reconciled_at=at))
    assert first.reconciler.check() == NOTHING
    assert second.reconciles
    second.reconciler.check()
    assert second.reconciles


def test_nothing_is_asked_while_nothing_is_open_and_a_batch_begins_it_again(place: Place) -> None:
    worker = place.worker("a")
    with transaction(place.engine) as connection:
        scans.cancel(connection, place.ledger.scan_id)
    worker.round()
    assert worker.row.news == News(open=False, ready=False, webhooks=False, promotion=0)
    sent = Statements(place.engine)
    assert worker.reconciler.check() == NOTHING
    assert sent.n == 0
    with transaction(place.engine) as connection:
        connection.execute(sa.update(Scan).values(state="running"))
        connection.execute(sa.update(Batch).values(state="ready", notified_at=None))
    worker.busy = True  # of this new scan, before the next heartbeat
    assert worker.reconciler.check().notified == 4


@pytest.mark.parametrize("state", ["ready", "leased"])
def test_an_open_training_keeps_the_rounds_going(place: Place, state: str) -> None:
    worker = place.worker("a")
    with transaction(place.engine) as connection:
        scans.cancel(connection, place.ledger.scan_id)
        check = connection.execute(sa.select(Scan.check_id)).scalar_one()
        at = now(connection)
        lease = {"state": state, "lease_until": at - timedelta(seconds=1) if state == "leased" else None}
        row = {"check_id": check, "check_name": "overlay", "base_model": "m", "recipe": "auto", "overrides": {}}
        row |= {"seed": 0, "reason": "a test", "newest_label": 1, "created_at": at}
        connection.execute(sa.insert(Training).values(row | lease))
    worker.round()
    assert worker.row.news.open
    with transaction(place.engine) as connection:
        found = connection.execute(sa.select(Training.state, Training.notified_at)).one()
    assert found.state == "ready"  # its lease has expired
    assert found.notified_at is not None


def test_a_waiting_command_reconciles_while_no_worker_does(place: Place) -> None:
    command = place.command()
    place.ledger.must_claim(worker="x")
    place.pass_time(61)
    assert command.check().expired == 1
    worker = place.worker("a")
    worker.round()
    place.ledger.must_claim(worker="x")
    place.pass_time(61)
    with transaction(place.engine) as connection:
        connection.execute(sa.update(Worker).values(reconciled_at=now(connection)))
    assert command.check() == NOTHING
    place.pass_time(attended_seconds(place.settings) + 0.1)
    assert command.check().expired == 1


@pytest.mark.parametrize("before", ["nothing", "a batch"])
def test_an_idle_worker_sends_at_most_one_statement_a_second(database_url: str, tmp_path: Path, before: str) -> None:
    """Over a minute of its timers, called by hand."""
    with rig(tmp_path, database_url=database_url, webhook_hosts="example.com", webhook_secret="x" * 32) as worker:
        if before == "a batch":
            worker.scan({"mem://a": png(1)})
            worker.drain()
        with transaction(worker.engine) as connection:
            start_worker(connection, worker=worker.scoring.name, host="h", pid=1, queue=QUEUE, device="none")
        row = Row(worker.engine, worker.scoring.name, worker.settings)
        with make_app(worker.settings, (QUEUE,)) as app:
            timers = timers_on_ledger(worker.scoring, app, worker.settings, lambda: row.news)
        assert len(timers) == 4
        calls = [(row.update, beat_seconds(worker.settings)), *((timer.call, timer.seconds) for timer in timers)]
        due = sorted((n * every, place) for place, (_, every) in enumerate(calls) for n in range(int(60 / every)))
        for _, place in due[: len(calls) * 2]:  # what a worker does when it begins
            calls[place][0]()
        sent = Statements(worker.engine)
        for _, place in due:
            calls[place][0]()
    assert 0 < sent.n <= 60, sent.texts


N_ENDED, N_READY = 3000, 1500


@pytest.mark.slow
def test_no_round_reads_what_has_ended_or_every_ready_batch(pg_url: str, tmp_path: Path) -> None:
    settings = load_settings(database_url=pg_url, data_dir=tmp_path, model="fake")
    engine = connect(settings)
    upgrade(engine)
    place = Small(engine, n_images=N_READY, batch_images=1)
    with transaction(engine) as connection:
        _add_ended(connection)
        connection.exec_driver_sql("ANALYZE scans, batches, workers")
    with make_app(settings, (QUEUE,)) as app:
        member = Member(engine, app, settings, "a")
        place.claim(worker="x", lease_seconds=-1)
        asked = Statements(engine)
        member.round()
        reconcile.reconcile_once(engine, app, settings)
    calls = [call for text, call in asked.calls.items() if text.startswith(("SELECT", "UPDATE"))]
    plans = {call[0]: _plan(engine, *call) for call in calls}
    engine.dispose()
    assert len(plans) > 10
    for text, plan in plans.items():
        assert "Seq Scan on scans" not in plan, f"{text}\n{plan}"
        assert "Seq Scan on workers" not in plan, f"{text}\n{plan}"
        if text.startswith("SELECT batches.id, (SELECT scans.model"):
            assert "ix_batches_unnotified" in plan or "ix_batches_notified_at" in plan, f"{text}\n{plan}"
    assert any("ix_batches_unnotified" in plan for plan in plans.values())


def _add_ended(connection: sa.Connection) -> None:
    at = now(connection)
    check = connection.execute(sa.select(Scan.check_id).limit(1)).scalar_one()
    scan = {"check_id": check, "model": "fake", "queue": QUEUE, "sources": [], "filters": {}, "state": "done"}
    scan |= {"n_listed": 1, "created_at": at, "finished_at": at}
    names = [f"ended{number:05}" for number in range(N_ENDED)]
    connection.execute(sa.insert(Scan), [{"id": name, "identity": name} | scan for name in names])
    worker = {"host": "h", "pid": 1, "queue": QUEUE, "device": "none", "started_at": at, "beat_at": at}
    ended = {"stopped_at": at, "reconciled_at": at - timedelta(days=1)}
    connection.execute(sa.insert(Worker), [{"id": name} | worker | ended for name in names])


def _plan(engine: sa.Engine, statement: str, parameters: Any) -> str:
    with engine.connect() as connection:
        return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
