"""`db wait` returns once the schema is there, and says what is missing when it is not in time."""

import threading
from pathlib import Path

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db import schema
from scanfleet.db.engine import connect
from scanfleet.producer.cli.fleet import db
from tests.helpers.cli_call import scanfleet
from tests.helpers.migrated import upgraded


def test_it_waits_for_a_schema_that_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = connect(load_settings(data_dir=tmp_path))
    looked = threading.Event()
    check = schema.check_schema

    def look(*given: object, **how: object) -> str:
        if looked.is_set():
            schema.upgrade(engine)
        looked.set()
        return check(*given, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(schema, "check_schema", look)
    monkeypatch.setattr(db, "WAIT_SECONDS", 0.01)
    done = scanfleet("db", "wait", "--seconds", "60", data_dir=tmp_path)
    engine.dispose()
    assert (done.returncode, done.stdout.strip()) == (0, schema.newest_revision())


def test_out_of_time_it_says_what_is_missing(tmp_path: Path) -> None:
    late = scanfleet("db", "wait", "--seconds", "0", data_dir=tmp_path)
    assert (late.returncode, "run `scanfleet db upgrade`" in late.stderr) == (18, True)
    away = scanfleet(
        *("--database-url", "postgresql://me@127.0.0.1:1/none", "db", "wait", "--seconds", "0"), data_dir=tmp_path
    )
    assert away.returncode == 75
    upgraded(load_settings(data_dir=tmp_path))
    assert scanfleet("db", "wait", "--seconds", "0", data_dir=tmp_path).returncode == 0
