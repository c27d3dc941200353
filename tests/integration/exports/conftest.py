"""A ledger on each of the two databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
from tests.helpers.migrated import upgrade


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=database_url, data_dir=tmp_path, model="fake"))
    upgrade(engine)
    yield engine
    engine.dispose()
