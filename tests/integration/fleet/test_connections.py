"""How many connections a process holds on PostgreSQL."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from scanfleet.config.settings import load_settings
from scanfleet.db import postgresql
from scanfleet.db.engine import connect, reading
from scanfleet.db.postgresql import MAX_CONNECTIONS
from scanfleet.errors import DatabaseUnavailable
from tests.rigs.worker_fleet import fleet
from tests.services import PostgresServer


@pytest.mark.parametrize("in_flight", [load_settings().batches_in_flight, pytest.param(16, marks=pytest.mark.slow)])
def test_a_worker_holds_four_connections_whatever_it_does(
    tmp_path: Path, postgres_server: PostgresServer, redis_url: str, pg_url: str, in_flight: int
) -> None:
    marked = make_url(pg_url).update_query_dict({"application_name": "counted"}).render_as_string(hide_password=False)
    most = 0
    with (
        fleet(tmp_path, broker_url=redis_url, database_url=pg_url, batches_in_flight=in_flight) as here,
        postgres_server.connect() as watcher,
    ):
        scan = here.scan(480, batch_images=2)
        here.start(database_url=marked)

        def done() -> bool:
            nonlocal most
            count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"
            row = watcher.execute(count).fetchone()
            assert row is not None
            most = max(most, row[0])
            return here.progress(scan).n_pending == 0

        here.until(done)
    assert 1 < most <= MAX_CONNECTIONS


def test_waiting_for_a_free_connection_is_bounded(pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "POOL_SECONDS", 0.2)
    engine = connect(load_settings(database_url=pg_url))
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(reading(engine)).execute(sa.select(1))
        with pytest.raises(DatabaseUnavailable, match="busy"), reading(engine):
            pass
    with reading(engine) as connection:
        assert connection.execute(sa.select(1)).scalar_one() == 1
    engine.dispose()
