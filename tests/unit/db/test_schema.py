"""The migrations lead from an empty database to the tables, and the embedded database brings itself there."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from scanfleet.config.settings import load_settings
from scanfleet.db import schema
from scanfleet.db.engine import connect, transaction
from scanfleet.db.tables import Base
from scanfleet.errors import SchemaOutdated
from tests.schema_diff import schema_diff


def test_migrations_lead_to_the_tables(tmp_path: Path) -> None:
    engine = connect(load_settings(data_dir=tmp_path))
    schema.upgrade(engine)
    assert schema_diff(engine) == []
    engine.dispose()


def test_the_last_migration_leads_back_and_forth(tmp_path: Path) -> None:
    engine = connect(load_settings(data_dir=tmp_path))
    schema.upgrade(engine)
    with transaction(engine) as connection:
        command.downgrade(schema._config(connection), "-1")
    assert schema_diff(engine) != []
    schema.upgrade(engine)
    assert schema_diff(engine) == []
    engine.dispose()


def test_the_newest_revision_is_where_the_migrations_lead() -> None:
    assert schema.newest_revision() == ScriptDirectory.from_config(schema._config(None)).get_current_head()


def test_the_diff_sees_a_missing_column(tmp_path: Path) -> None:
    engine = connect(load_settings(data_dir=tmp_path))
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE workers DROP COLUMN device"))
    assert schema_diff(engine) != []
    engine.dispose()


def test_the_embedded_database_upgrades_itself_and_a_server_does_not(tmp_path: Path) -> None:
    with schema.ledger(load_settings(data_dir=tmp_path / "embedded")) as engine:
        assert set(sa.inspect(engine).get_table_names()) > set(Base.metadata.tables)
    named = load_settings(data_dir=tmp_path, database_url=f"sqlite:///{tmp_path / 'named.db'}")
    with pytest.raises(SchemaOutdated, match="scanfleet db upgrade"), schema.ledger(named):
        pass
