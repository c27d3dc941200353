"""Workers that record shifts of a scorer's margins at the same moment, on PostgreSQL."""

from dataclasses import asdict
from pathlib import Path

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from tests.helpers.migrated import upgrade
from tests.rigs.shifts import shift, tell_at_once


def test_of_concurrent_shifts_the_widest_stays(pg_url: str, tmp_path: Path) -> None:
    engine = connect(load_settings(data_dir=tmp_path, database_url=pg_url))
    try:
        upgrade(engine)
        assert tell_at_once(engine) == asdict(shift(0.3))
    finally:
        engine.dispose()
