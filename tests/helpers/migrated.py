"""Databases of the newest schema as copies of one: running the migrations takes longer than most tests."""

import tempfile
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db import schema
from scanfleet.db.engine import connect, reading
from tests.services import PostgresServer

TEMPLATE = "migrated"  # the database of each PostgreSQL server that others are copies of


@cache
def _sqlite_file() -> bytes:
    with tempfile.TemporaryDirectory(prefix="scanfleet-migrated-") as folder:
        engine = connect(load_settings(data_dir=Path(folder)))
        schema.upgrade(engine)
        engine.dispose()  # the last connection to close writes everything into the one file
        return _file(engine).read_bytes()


def _file(engine: sa.Engine) -> Path:
    assert engine.url.database
    return Path(engine.url.database)


def upgrade(engine: sa.Engine) -> None:
    """Do the same as `scanfleet.db.schema.upgrade`, for an engine that has not connected yet."""
    if engine.dialect.name == "sqlite" and not _file(engine).exists():
        _file(engine).write_bytes(_sqlite_file())
        with reading(engine) as connection:  # as after a migration, the engine has its connection, and that its files
            connection.execute(sa.text("SELECT 1 FROM alembic_version"))
    else:
        schema.upgrade(engine)


def upgraded(settings: Settings) -> Settings:
    """The settings, with their database brought to the newest schema."""
    engine = connect(settings)
    upgrade(engine)
    engine.dispose()
    return settings


def postgres_database(server: PostgresServer) -> str:
    """A new database of the newest schema; its SQLAlchemy address."""
    if not server.has_database(TEMPLATE):
        engine = connect(load_settings(database_url=server.fresh_database(TEMPLATE)))
        schema.upgrade(engine)
        engine.dispose()
    return server.fresh_database(template=TEMPLATE)
