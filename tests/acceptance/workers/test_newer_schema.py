"""A database that a later release has upgraded, while processes of this one are about."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import transaction
from scanfleet.db.schema import newest_revision
from scanfleet.errors import SchemaOutdated
from tests.helpers.cli_process import scanfleet
from tests.rigs.worker_fleet import Fleet, fleet

NEXT = f"{int(newest_revision()[:4]) + 1:04}"


def upgrade_to(here: Fleet, revision: str) -> None:
    with transaction(here.engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :it"), {"it": revision})


@pytest.mark.slow
def test_workers_continue_and_commands_ask_for_an_update(tmp_path: Path, redis_url: str, pg_url: str) -> None:
    with fleet(tmp_path, broker_url=redis_url, database_url=pg_url) as here:
        scan = here.scan(64)
        running = here.start(seconds_per_image=0.05)
        here.until_scored(scan, 8)
        with transaction(here.engine) as connection:
            connection.execute(sa.text("ALTER TABLE images ADD COLUMN of_the_next_release TEXT"))
        upgrade_to(here, NEXT)
        started = here.start(seconds_per_image=0.05)
        here.until(lambda: "worker_ready" in started.log)
        here.until_done(scan)
        here.assert_complete(scan, 64)
        assert running.process.poll() is None
        here.settings.data_dir.mkdir(exist_ok=True)
        for command in (("scans", "ls"), ("db", "upgrade"), ("doctor",)):
            done = scanfleet(*command, data_dir=here.settings.data_dir, database_url=pg_url, broker_url=redis_url)
            assert done.returncode == SchemaOutdated.exit_code, done.stderr
            assert NEXT in done.stdout + done.stderr
            assert "Traceback" not in done.stderr
        upgrade_to(here, f"{NEXT}-{NEXT}")
        assert here.start().end() == SchemaOutdated.exit_code
