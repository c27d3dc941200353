"""Worker processes that are killed, stopped and frozen, on both pairs of broker and database."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.tables import Batch, Verdict, Worker
from tests.rigs.worker_fleet import Fleet, fleet
from tests.services import PostgresServer, RedisServer
from tests.services.black_hole import Proxy

SLOW = 0.05  # seconds per image: a batch of eight lasts long enough to be hit


# The tests of `scanfleet run` kill and stop workers on the folder and SQLite: here that pair is for `make test-slow`.
@pytest.fixture(params=[pytest.param("folder and sqlite", marks=pytest.mark.slow), "redis and postgresql"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    settings: dict[str, Any] = {}
    if request.param == "redis and postgresql":
        settings["broker_url"] = request.getfixturevalue("redis_url")
        settings["database_url"] = request.getfixturevalue("pg_url")
    with fleet(tmp_path, **settings) as made:
        yield made


def test_two_workers_share_a_scan(here: Fleet) -> None:
    scan = here.scan(160)
    here.start(seconds_per_image=SLOW)
    here.start(seconds_per_image=SLOW)
    here.until_done(scan)
    here.assert_complete(scan, 160)
    here.until(lambda: here.count(Worker, Worker.n_images > 0) == 2)  # the rows are renewed every few seconds


def test_a_worker_killed_mid_batch_costs_a_lease_and_nothing_else(here: Fleet) -> None:
    scan = here.scan(64)
    victim = here.start(seconds_per_image=SLOW)
    here.until_scored(scan, 8)
    here.until_leased()
    victim.signal(signal.SIGKILL)
    victim.end()
    assert here.count(Batch, Batch.state == "leased") >= 1
    here.start()
    here.until_done(scan)
    here.assert_complete(scan, 64)


@pytest.mark.slow
def test_sigterm_mid_batch_hands_back_and_loses_nothing(here: Fleet) -> None:
    scan = here.scan(32, batch_images=16)
    stopped = here.start(seconds_per_image=3600, drain_seconds=0.5)
    here.until_leased()
    stopped.signal(signal.SIGTERM)
    assert stopped.end() == 0
    assert here.count(Batch, Batch.state == "leased") == 0
    with reading(here.engine) as connection:
        assert set(connection.execute(sa.select(Batch.attempts)).scalars()) == {0}
    assert here.count(Worker, Worker.stopped_at.is_not(None)) == 1
    here.start()
    here.until_done(scan)
    here.assert_complete(scan, 32)


@pytest.mark.slow
def test_sigterm_lets_a_short_batch_finish(here: Fleet) -> None:
    scan = here.scan(8)
    stopped = here.start(seconds_per_image=0.2)
    here.until_leased()
    stopped.signal(signal.SIGTERM)
    assert stopped.end() == 0
    here.assert_complete(scan, 8)


@pytest.mark.slow
def test_a_second_sigterm_does_not_wait(here: Fleet) -> None:
    here.scan(8)
    stopped = here.start(seconds_per_image=3600, drain_seconds=3600)
    here.until_leased()
    stopped.signal(signal.SIGTERM)
    here.until(lambda: "worker_draining" in stopped.log)
    stopped.signal(signal.SIGTERM)
    assert stopped.end() == 0
    assert here.count(Batch, Batch.state == "ready") == 1


def test_a_worker_frozen_past_its_lease_changes_nothing_when_it_wakes(here: Fleet) -> None:
    scan = here.scan(16)
    frozen = here.start(seconds_per_image=0.2)
    here.until_leased()
    here.freeze(frozen)
    here.start()
    here.until_done(scan)
    here.assert_complete(scan, 16)
    with reading(here.engine) as connection:
        before = connection.execute(sa.select(Verdict.__table__).order_by(Verdict.id)).all()
    frozen.signal(signal.SIGCONT)
    here.until(lambda: bool(re.search("lease_lost|late_result_dropped", frozen.log)))
    frozen.signal(signal.SIGTERM)
    assert frozen.end() == 0
    with reading(here.engine) as connection:
        assert connection.execute(sa.select(Verdict.__table__).order_by(Verdict.id)).all() == before


def test_bad_messages_do_not_stop_a_worker(here: Fleet) -> None:
    here.send("score_batch", batch_id="eight")
    here.send("score_batch", 8)
    here.send("score_batch", batch_id=8, command="rm")
    here.send("no_such_task", batch_id=8)
    here.send("score_batch", batch_id=999_999)
    scan = here.scan(16)
    here.start()
    here.until_done(scan)
    here.assert_complete(scan, 16)


@pytest.mark.slow
def test_a_redis_that_is_restarted_mid_run_is_found_again(tmp_path: Path, own_redis: RedisServer, pg_url: str) -> None:
    with fleet(tmp_path, broker_url=own_redis.url, database_url=pg_url) as here:
        first = here.scan(64)
        worker = here.start(seconds_per_image=SLOW)
        for scored in (8, 24):
            here.until_scored(first, scored)
            own_redis.kill()
            own_redis.start()
        here.until_done(first)
        own_redis.kill()  # while nothing runs, and longer than a retry takes
        second = here.scan(72)
        own_redis.start()
        here.until_done(second)
        here.assert_complete(second, 72)
        assert worker.process.poll() is None  # the same process all the time


@pytest.mark.slow
def test_connections_that_fall_silent_are_replaced(tmp_path: Path, own_redis: RedisServer, pg_url: str) -> None:
    """Half-open connections: nothing is refused, nothing is answered, only new connections work."""
    with (
        Proxy(own_redis.port) as proxy,
        fleet(tmp_path, broker_url=f"redis://127.0.0.1:{proxy.port}/0", database_url=pg_url) as here,
    ):
        first = here.scan(64)
        worker = here.start(seconds_per_image=SLOW)
        here.until_scored(first, 8)
        here.until_leased()
        assert proxy.swallow() > 0
        here.until_done(first)
        second = here.scan(72)
        here.until_done(second)
        here.assert_complete(second, 72)
        assert worker.process.poll() is None


@pytest.mark.slow
def test_a_database_that_is_restarted_mid_run_is_found_again(
    tmp_path: Path, redis_url: str, own_postgres: PostgresServer
) -> None:
    url = own_postgres.fresh_database()
    with fleet(tmp_path, broker_url=redis_url, database_url=url) as here:
        scan = here.scan(64)
        worker = here.start(seconds_per_image=SLOW)
        here.until_scored(scan, 8)
        own_postgres.kill()
        own_postgres.start()
        here.engine.dispose()
        here.until_done(scan)
        here.assert_complete(scan, 64)
        assert worker.process.poll() is None
