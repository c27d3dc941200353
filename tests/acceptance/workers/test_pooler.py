"""A pooler in transaction mode between scanfleet and PostgreSQL: each transaction may run in another session."""

import json
import signal
from pathlib import Path

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, reading
from tests.helpers.cli_process import scanfleet
from tests.rigs.worker_fleet import fleet
from tests.rigs.worker_rig import png
from tests.services import PgBouncer
from tests.services.pgbouncer import SESSIONS

N_IMAGES = 160


@pytest.fixture
def database_url(pooler: PgBouncer, pg_empty_url: str) -> str:
    return pooler.pooled(pg_empty_url)


@pytest.mark.slow
def test_a_fleet_works_through_a_pooler(tmp_path: Path, redis_url: str, database_url: str) -> None:
    with fleet(tmp_path, broker_url=redis_url, database_url=database_url) as here:  # upgrades the database
        victim = here.start(seconds_per_image=0.05)
        other = here.start(seconds_per_image=0.05)
        here.archive.mkdir()
        for number in range(N_IMAGES):
            (here.archive / f"{number}.png").write_bytes(png(number))
        address = {"model": "fake", "batch_images": "8", "broker_url": redis_url, "database_url": database_url}
        here.settings.data_dir.mkdir(exist_ok=True)
        enqueue = ("scan", here.archive, "--check", "overlay")
        done = scanfleet(*enqueue, data_dir=here.settings.data_dir, **address)
        assert done.returncode == 0, done.stderr
        shown = scanfleet("scans", "ls", "--format", "json", data_dir=here.settings.data_dir, **address)
        scan = json.loads(shown.stdout)[0]["scan"]
        here.until_scored(scan, 24)
        victim.signal(signal.SIGKILL)
        victim.end()
        here.until_done(scan)
        here.assert_complete(scan, N_IMAGES)
        for worker in (victim, other):
            assert "prepared statement" not in worker.log
            assert "crashed" not in worker.log
        exported = scanfleet("results", "export", "--scan", scan, data_dir=here.settings.data_dir, **address)
        assert len(exported.stdout.splitlines()) == N_IMAGES, exported.stderr


def test_other_clients_of_the_pooler_notice_nothing(pooler: PgBouncer, database_url: str) -> None:
    ours = connect(load_settings(database_url=database_url))
    for _ in range(20):  # psycopg prepares a statement at its sixth use
        with reading(ours) as connection:
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "12s"
            connection.exec_driver_sql("SELECT %s::int", (1,))
    with reading(ours, long=True) as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "30min"
    clients = [pooler.connect(database_url) for _ in range(SESSIONS)]
    try:
        for client in clients:  # each holds a session, so that together they see all of them
            client.execute("BEGIN")
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                assert client.execute(f"SHOW {name}").fetchone() == ("0",)
            assert client.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    finally:
        for client in clients:
            client.close()
        ours.dispose()
