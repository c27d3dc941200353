"""Workers that tell at the same moment how far a scorer's margins moved, on PostgreSQL."""

from dataclasses import asdict
from pathlib import Path

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from tests.migrated import upgrade
from tests.shifts import shift, tell_at_once


def test_of_workers_that_tell_at_once_the_widest_stays(pg_url: str, tmp_path: Path) -> None:
    engine = connect(load_settings(data_dir=tmp_path, database_url=pg_url))
    try:
        upgrade(engine)
        assert tell_at_once(engine) == asdict(shift(0.3))
    finally:
        engine.dispose()
