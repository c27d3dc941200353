"""The migrations lead from an empty database to the tables, and the embedded database brings itself there."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db import schema
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.scans import new_images, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Base, Batch
from scanfleet.errors import SchemaOutdated, SchemaTooNew
from tests.helpers.schema_diff import schema_diff


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


def test_what_is_ready_keeps_the_time_of_its_notification(tmp_path: Path) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    engine = connect(load_settings(data_dir=tmp_path))
    schema.upgrade(engine)
    with transaction(engine) as connection:
        check, images = load_check("overlay"), [NewImage(uri=f"/a/{n}", root="/a") for n in range(2)]
        scan, _ = scans.open_scan(connection, check=check, model="fake", sources=["/a"], filters={})
        _, done = new_images.add_images(connection, scan_id=scan.id, queue="q", images=images, batch_images=1)
        connection.execute(sa.update(Batch).values(notified_at=at))
        connection.execute(sa.update(Batch).where(Batch.id == done).values(state="done"))
        command.downgrade(schema._config(connection), "0007")
    schema.upgrade(engine)
    with reading(engine) as connection:
        found = dict(connection.execute(sa.select(Batch.state, Batch.notified_at)).tuples().all())
    assert found == {"ready": at, "done": None}
    engine.dispose()


def test_a_connection_opens_no_descriptor_of_an_existing_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing one would drop SQLite's locks in this process."""
    settings = load_settings(data_dir=tmp_path)
    with schema.ledger(settings):
        pass
    assert (tmp_path / "scanfleet.db").stat().st_mode & 0o777 == 0o600
    opened: list[str] = []
    real = os.open

    def recorded(path: str, flags: int, mode: int = 0o777) -> int:
        descriptor = real(path, flags, mode)
        opened.append(str(path))
        return descriptor

    monkeypatch.setattr(os, "open", recorded)
    with schema.ledger(settings) as engine, reading(engine) as connection:
        connection.execute(sa.text("SELECT 1"))
    assert not [path for path in opened if path.endswith("scanfleet.db")]


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


def at_revision(folder: Path, revision: str) -> Settings:
    """Settings of an embedded database that a later release has brought to a revision."""
    settings = load_settings(data_dir=folder)
    with schema.ledger(settings) as engine, transaction(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :it"), {"it": revision})
    return settings


@pytest.mark.parametrize("revision", ["7000", "7000-0001", "7000-6999"])
def test_no_command_works_on_a_newer_schema_nor_upgrades_it(tmp_path: Path, revision: str) -> None:
    with pytest.raises(SchemaTooNew, match="7000"), schema.ledger(at_revision(tmp_path, revision)):
        pass
    assert SchemaTooNew.exit_code == SchemaOutdated.exit_code


@pytest.mark.parametrize("oldest", ["", "-0001", f"-{schema.newest_revision()}"])
def test_a_worker_accepts_a_newer_schema_that_does_not_rule_it_out(tmp_path: Path, oldest: str) -> None:
    with schema.ledger(at_revision(tmp_path, f"7000{oldest}"), newer=True) as engine:
        assert schema.check_schema(engine, newer=True) == f"7000{oldest}"


def test_a_worker_refuses_a_newer_schema_that_rules_it_out_and_an_older_one(tmp_path: Path) -> None:
    with pytest.raises(SchemaTooNew), schema.ledger(at_revision(tmp_path, "7000-6999"), newer=True):
        pass
    engine = connect(load_settings(data_dir=tmp_path))
    with transaction(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(SchemaOutdated, match="0001") as caught:
        schema.check_schema(engine, newer=True)
    assert not isinstance(caught.value, SchemaTooNew)
    engine.dispose()
