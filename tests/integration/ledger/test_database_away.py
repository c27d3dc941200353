"""PostgreSQL that falls silent, stops, refuses or becomes a standby: named errors, bounded waits, and recovery."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from scanfleet.config.settings import load_settings
from scanfleet.db import postgresql
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.postgresql import LONG, SHORT, BoundedConnection
from scanfleet.db.tables import CheckRow
from scanfleet.errors import DatabaseUnavailable, SchemaOutdated
from tests.helpers.migrated import upgrade
from tests.helpers.patience import patient
from tests.rigs.worker_rig import png, rig
from tests.services import PostgresServer
from tests.services.black_hole import Proxy

ROW = {"name": "a", "hash": "h", "body": {}, "created_at": datetime.now(UTC)}


@pytest.fixture
def engine(pg_url: str) -> Iterator[sa.Engine]:
    made = connect(load_settings(database_url=pg_url))
    yield made
    made.dispose()


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(postgres_server.port) as proxy:
        yield proxy


def through(proxy: Proxy, url: str) -> str:
    return make_url(url).set(port=proxy.port).render_as_string(hide_password=False)


def one(engine: sa.Engine) -> int:
    with transaction(engine) as connection:
        return connection.execute(sa.select(1)).scalar_one()


def fails(call: Callable[[], object], words: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=words):
        call()


def test_every_wait_ends_before_a_lease_of_default_length_does() -> None:
    assert SHORT.lock_seconds < SHORT.statement_seconds < SHORT.answer_seconds
    assert LONG.lock_seconds < LONG.statement_seconds < LONG.answer_seconds
    reconnect = postgresql.CONNECT_ARGS["connect_timeout"]
    # A third of the lease passes before the heartbeat asks; it may wait for a connection, and that one be silent.
    waits = postgresql.POOL_SECONDS + SHORT.answer_seconds + reconnect
    assert load_settings().lease_seconds / 3 * 1.2 + waits < load_settings().lease_seconds


def test_a_silent_connection_is_given_up_and_the_next_call_takes_another(
    proxy: Proxy, pg_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 1.0)
    engine = connect(load_settings(database_url=through(proxy, pg_url)))

    def fall_silent_inside() -> None:
        with transaction(engine) as connection:
            connection.execute(sa.select(1))
            assert proxy.swallow() == 1
            connection.execute(sa.select(1))

    start = time.monotonic()
    fails(fall_silent_inside, "no answer from the server in 1 s")
    assert one(engine) == 1
    assert proxy.swallow() == 1
    assert one(engine) == 1  # it was idle: asked before the work, and replaced
    assert time.monotonic() - start < patient(10)
    engine.dispose()


def test_a_silent_connection_costs_a_worker_time_and_nothing_else(
    tmp_path: Path, proxy: Proxy, pg_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 1.0)
    monkeypatch.setattr(postgresql, "IDLE_IN_TRANSACTION_SECONDS", 1.0)  # or its locks are held for ten
    with rig(tmp_path, database_url=through(proxy, pg_url)) as worker:
        scan = worker.scan({f"mem://{number}": png(number) for number in range(16)})
        silenced: list[int] = []

        def silence(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if "INSERT INTO verdicts" in statement and not silenced:
                silenced.append(proxy.swallow())

        sa.event.listen(worker.engine, "before_cursor_execute", silence)
        start = time.monotonic()
        worker.drain()
        assert silenced
        assert time.monotonic() - start < patient(15)
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures) == (16, 0)


@pytest.mark.slow
def test_a_server_that_takes_connections_and_is_frozen_is_away(own_postgres: PostgresServer) -> None:
    engine = connect(load_settings(database_url=own_postgres.fresh_database()))
    own_postgres.pause()
    start = time.monotonic()
    fails(lambda: one(engine), "cannot be used right now")
    assert time.monotonic() - start < patient(15)
    own_postgres.resume()
    assert one(engine) == 1
    engine.dispose()


def test_a_statement_that_takes_too_long_is_ended_by_the_server(engine: sa.Engine) -> None:
    def sleep() -> None:
        with transaction(engine) as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 200")
            connection.execute(sa.select(sa.func.pg_sleep(30)))

    fails(sleep, "statement timeout")
    with transaction(engine) as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "12s"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "8s"


def test_what_touches_a_whole_archive_may_take_longer(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.3)
    with reading(engine, long=True) as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "30min"
        connection.execute(sa.select(sa.func.pg_sleep(0.6)))
    fails(lambda: _sleep(engine, 0.6), "no answer")  # the bound is back


def _sleep(engine: sa.Engine, seconds: float) -> None:
    with reading(engine) as connection:
        connection.execute(sa.select(sa.func.pg_sleep(seconds)))


def test_a_lock_that_cannot_be_had_is_a_transient_error(engine: sa.Engine) -> None:
    upgrade(engine)

    def wait_for_it() -> None:
        with transaction(engine) as holder:
            holder.execute(sa.insert(CheckRow).values(ROW))
            with transaction(engine) as other:
                other.exec_driver_sql("SET LOCAL lock_timeout = 200")
                other.execute(sa.insert(CheckRow).values(ROW))

    fails(wait_for_it, "lock timeout")


def test_the_victim_of_a_deadlock_meets_a_transient_error(engine: sa.Engine) -> None:
    upgrade(engine)
    with transaction(engine) as connection:
        connection.execute(sa.insert(CheckRow), [{**ROW, "hash": name, "body": {}} for name in ("x", "y")])
    meet = threading.Barrier(2)
    outcomes: list[str] = []

    def change(first: str, second: str) -> None:
        try:
            with transaction(engine) as connection:
                for name in (first, second):
                    connection.execute(sa.update(CheckRow).where(CheckRow.hash == name).values(name=first))
                    if name == first:
                        meet.wait(30)
        except DatabaseUnavailable as error:
            outcomes.append(str(error))
        else:
            outcomes.append("")

    threads = [threading.Thread(target=change, args=names) for names in (("x", "y"), ("y", "x"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    through, victim = sorted(outcomes)
    assert through == ""
    assert "deadlock" in victim


def test_a_transaction_that_cannot_be_serialised_is_tried_again(engine: sa.Engine) -> None:
    upgrade(engine)
    with transaction(engine) as connection:
        connection.execute(sa.insert(CheckRow).values(ROW))

    def collide() -> None:
        with transaction(engine) as first:
            first.exec_driver_sql("ROLLBACK; BEGIN ISOLATION LEVEL SERIALIZABLE")
            first.execute(sa.select(CheckRow.id)).all()
            with transaction(engine) as second:
                second.execute(sa.update(CheckRow).values(name="second"))
            first.execute(sa.update(CheckRow).values(name="first"))

    fails(collide, "could not serialize")


def test_a_session_that_the_administrator_ends(engine: sa.Engine, postgres_server: PostgresServer) -> None:
    def ended_inside() -> None:
        with transaction(engine) as connection:
            pid = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
            with postgres_server.connect() as administrator:
                administrator.execute("SELECT pg_terminate_backend(%s)", [pid])
            connection.execute(sa.select(1))

    fails(ended_inside, "terminat|closed")
    assert one(engine) == 1


def test_a_server_that_crashes_recovers_or_has_no_connection_left(own_postgres: PostgresServer) -> None:
    url = own_postgres.fresh_database()
    engine = connect(load_settings(database_url=url))

    def crash_inside() -> None:
        with transaction(engine) as connection:
            connection.execute(sa.select(1))
            own_postgres.kill()
            connection.execute(sa.select(1))

    fails(crash_inside, "closed|terminat|reset")
    fails(lambda: one(engine), "refused")
    own_postgres.start()
    with own_postgres.connect() as administrator:
        name = url.rpartition("/")[2]
        administrator.execute(f'ALTER ROLE scanfleet CONNECTION LIMIT 0; ALTER DATABASE "{name}" CONNECTION LIMIT 0')
        administrator.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
        own = make_url(url).set(username="plain", password="plain")
        plain = connect(load_settings(database_url=own.render_as_string(hide_password=False)))
        fails(lambda: one(plain), "too many connections")
        administrator.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
    assert one(plain) == 1
    plain.dispose()
    engine.dispose()


def test_a_server_that_became_a_standby_is_away_until_the_writer_is_found(engine: sa.Engine) -> None:
    upgrade(engine)

    def write(*, standby: bool) -> int:
        with transaction(engine) as connection:
            pid = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
            if standby:
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")  # the error of a standby, SQLSTATE 25006
            connection.execute(sa.insert(CheckRow).values(ROW))
            before.append(pid)
            return pid

    before: list[int] = []
    with transaction(engine) as connection:
        old = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
    fails(lambda: write(standby=True), "read-only")
    assert write(standby=False) != old  # not a connection of before


def test_a_missing_table_is_an_outdated_schema_and_a_missing_role_is_not(pg_empty_url: str) -> None:
    empty = connect(load_settings(database_url=pg_empty_url))
    with pytest.raises(SchemaOutdated, match="db upgrade"), reading(empty) as connection:
        connection.execute(sa.select(CheckRow.id))
    empty.dispose()
    nobody = make_url(pg_empty_url).set(username="nobody").render_as_string(hide_password=False)
    other = connect(load_settings(database_url=nobody))
    fails(lambda: one(other), "nobody")


def test_a_bug_of_ours_stays_a_bug(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.ProgrammingError), transaction(engine) as connection:
        connection.exec_driver_sql("SELEKT 1")
    with pytest.raises(sa.exc.DataError), transaction(engine) as connection:
        connection.exec_driver_sql("SELECT 1/0")


def test_a_damaged_embedded_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "scanfleet.db").write_bytes(b"this is no database, and never was" * 100)
    engine = connect(load_settings(data_dir=tmp_path))
    fails(lambda: one(engine), "damaged.*not a database")
    engine.dispose()
