"""A worker frozen inside a transaction keeps its locks no longer than the server lets it."""

import time

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db import engine as store
from scanfleet.db import postgresql
from scanfleet.db.tables import CheckRow
from scanfleet.errors import DatabaseUnavailable
from tests.helpers.migrated import upgrade
from tests.helpers.patience import patient


def test_the_locks_of_a_frozen_transaction_are_freed(pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "IDLE_IN_TRANSACTION_SECONDS", 1.0)
    engine = store.connect(load_settings(database_url=pg_url))
    upgrade(engine)
    row = {"name": "a", "hash": "h", "body": {}, "created_at": sa.func.now()}

    def freeze_inside() -> None:
        with store.transaction(engine) as frozen:
            frozen.execute(sa.insert(CheckRow).values(row))
            start = time.monotonic()
            with store.transaction(engine) as other:  # waits for the unique key that the first one holds
                other.execute(sa.insert(CheckRow).values(row))
            assert time.monotonic() - start < patient(30)
            frozen.execute(sa.select(1))  # the frozen one wakes up

    with pytest.raises(DatabaseUnavailable):
        freeze_inside()
    with store.reading(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(CheckRow)).scalar_one() == 1
    engine.dispose()
