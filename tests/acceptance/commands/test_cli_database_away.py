"""Commands beside a PostgreSQL that takes connections and says nothing."""

import time
from pathlib import Path

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from tests.helpers.cli_call import scanfleet
from tests.helpers.migrated import upgrade
from tests.helpers.patience import patient
from tests.services import PostgresServer

TRY_AGAIN = 75


@pytest.mark.slow
def test_a_silent_database_is_one_line_after_seconds(tmp_path: Path, own_postgres: PostgresServer) -> None:
    url = own_postgres.fresh_database()
    engine = connect(load_settings(database_url=url))
    upgrade(engine)
    engine.dispose()
    own_postgres.pause()
    start = time.monotonic()
    done = scanfleet("scans", "ls", data_dir=tmp_path, database_url=url)
    assert time.monotonic() - start < patient(20)
    assert done.returncode == TRY_AGAIN
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("scanfleet: the database")
    own_postgres.resume()
    assert scanfleet("scans", "ls", data_dir=tmp_path, database_url=url).returncode == 0
