"""SIGTERM ends a worker within its drain time, whatever is away or hangs meanwhile. The time to exit is measured."""

import signal
import time
from pathlib import Path

import pytest

from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch
from scanfleet.worker.runtime.shutdown import HAND_BACK_SECONDS
from tests.rigs.worker_fleet import Fleet, WorkerProcess, fleet
from tests.rigs.worker_rig import add_scan
from tests.services import PostgresServer, RedisServer
from tests.services.s3 import CREDENTIALS
from tests.services.slow_server import DrippingServer

DRAIN_SECONDS = HAND_BACK_SECONDS + 1
SLACK_SECONDS = 2.0  # two cores, shared with whatever else is tested
FOR_EVER = 3600.0


def seconds_to_exit(worker: WorkerProcess, *, signals: int = 1) -> float:
    start = time.monotonic()
    for n in range(signals):
        worker.signal(signal.SIGTERM)
        if n + 1 < signals:
            while "worker_draining" not in worker.log:
                time.sleep(0.01)
    worker.end()
    return time.monotonic() - start


def assert_nothing_is_held(here: Fleet) -> None:
    assert here.count(Batch, Batch.state == "leased") == 0


@pytest.mark.slow
def test_a_forward_that_outlasts_the_drain(tmp_path: Path) -> None:
    with fleet(tmp_path, drain_seconds=DRAIN_SECONDS) as here:
        here.scan(8)
        worker = here.start(seconds_per_image=FOR_EVER)
        here.until_leased()
        assert seconds_to_exit(worker) < DRAIN_SECONDS + SLACK_SECONDS
        assert_nothing_is_held(here)


@pytest.mark.slow
def test_a_fetch_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with (
        DrippingServer(every_seconds=0.5) as server,
        fleet(tmp_path, drain_seconds=DRAIN_SECONDS, s3_endpoint_url=server.url) as here,
    ):
        add_scan(here.engine, [NewImage(uri=f"s3://b/{number}.png") for number in range(8)])
        worker = here.start(fetch_deadline_seconds=FOR_EVER)
        here.until(lambda: server.n_requests > 0)
        assert seconds_to_exit(worker) < DRAIN_SECONDS + SLACK_SECONDS
        assert worker.end() == 0
        assert_nothing_is_held(here)


@pytest.mark.slow
def test_a_database_that_is_silent(tmp_path: Path, redis_url: str, own_postgres: PostgresServer) -> None:
    url = own_postgres.fresh_database()
    with fleet(tmp_path, drain_seconds=DRAIN_SECONDS, broker_url=redis_url, database_url=url) as here:
        here.scan(16)
        worker = here.start(seconds_per_image=0.1)
        here.until_leased()
        own_postgres.pause()  # open connections are not answered, and new ones neither
        try:
            assert seconds_to_exit(worker) < DRAIN_SECONDS + SLACK_SECONDS
        finally:
            own_postgres.resume()


@pytest.mark.slow
@pytest.mark.parametrize("away", ["killed", "silent"])
def test_a_broker_that_is_gone(tmp_path: Path, own_redis: RedisServer, pg_url: str, away: str) -> None:
    with fleet(tmp_path, drain_seconds=DRAIN_SECONDS, broker_url=own_redis.url, database_url=pg_url) as here:
        here.scan(16)
        worker = here.start(seconds_per_image=FOR_EVER)
        here.until_leased()
        own_redis.kill() if away == "killed" else own_redis.pause()
        try:
            assert seconds_to_exit(worker) < DRAIN_SECONDS + SLACK_SECONDS
        finally:
            if away == "silent":
                own_redis.resume()
        assert_nothing_is_held(here)  # the ledger was there all the time


@pytest.mark.slow
def test_an_idle_worker_without_a_broker_ends_too(tmp_path: Path, own_redis: RedisServer, pg_url: str) -> None:
    with fleet(tmp_path, drain_seconds=DRAIN_SECONDS, broker_url=own_redis.url, database_url=pg_url) as here:
        worker = here.start()
        here.until(lambda: "worker_ready" in worker.log)
        own_redis.kill()
        here.until(lambda: "timer_" in worker.log or "Connection" in worker.log or "onnect" in worker.log)
        assert seconds_to_exit(worker) < DRAIN_SECONDS + SLACK_SECONDS


def test_a_second_sigterm_hands_back_at_once(tmp_path: Path) -> None:
    with fleet(tmp_path, drain_seconds=120) as here:
        here.scan(8)
        worker = here.start(seconds_per_image=FOR_EVER)
        here.until_leased()
        assert seconds_to_exit(worker, signals=2) < HAND_BACK_SECONDS + SLACK_SECONDS
        assert_nothing_is_held(here)
