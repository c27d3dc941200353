"""Backup and restore of a PostgreSQL ledger as docs/operate.md says, in the middle of a scan."""

import os
import subprocess
from pathlib import Path

import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db import pointers, schema
from scanfleet.db.engine import connect, reading
from scanfleet.db.tables import Verdict
from tests.helpers.migrated import postgres_database
from tests.rigs.worker_rig import png, rig
from tests.services import PostgresServer

IMAGES = {f"mem://{number}": png(number) for number in range(12)}


def tool(server: PostgresServer, name: str, url: sa.URL, *arguments: str) -> None:
    command = [str(server.binaries / name), "--host", str(url.host), "--port", str(url.port), "--username"]
    env = os.environ | {"PGPASSWORD": str(url.password)}
    subprocess.run([*command, str(url.username), *arguments], check=True, env=env, timeout=120)


def test_a_dump_of_a_running_scan_is_restored_and_the_scan_goes_on(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = sa.make_url(postgres_database(postgres_server))
    dump = str(tmp_path / "ledger.dump")
    with rig(tmp_path, database_url=url.render_as_string(hide_password=False)) as worker:
        scan_id = worker.scan(IMAGES, batch_images=4)
        worker.pipeline.run(None)
        tool(postgres_server, "pg_dump", url, "--format=custom", "--file", dump, str(url.database))
        worker.drain()  # what comes after the backup is lost with the database
        margins = worker.margins(scan_id)

    restored = sa.make_url(postgres_server.fresh_database())
    tool(postgres_server, "pg_restore", restored, "--exit-on-error", "--dbname", str(restored.database), dump)
    address = restored.render_as_string(hide_password=False)
    engine = connect(load_settings(database_url=address))
    assert schema.check_schema(engine) == schema.newest_revision()
    pointers.check_pointers(engine)
    with reading(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(Verdict)).scalar_one() == 4
    engine.dispose()
    with rig(tmp_path, database_url=address) as worker:
        worker.put(IMAGES)
        worker.drain()
        assert worker.progress(scan_id).n_verdicts == len(IMAGES)
        assert worker.margins(scan_id) == margins
