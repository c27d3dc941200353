"""Bringing a database to the shape this version needs, and checking that it has it.

Every command checks. That goes without alembic, whose import takes a fifth of a command's start.

A revision is a number, `0009`, or two, `0010-0009`: the second is the oldest revision whose code works on this schema.
Without it all older code does. So a release before can tell whether it still works on a schema that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING

import sqlalchemy as sa

from scanfleet.config.diagnosis import refuse_at_start
from scanfleet.config.settings import Settings
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.views import VIEWS
from scanfleet.db.views.view import comments
from scanfleet.errors import DatabaseUnavailable, SchemaOutdated, SchemaTooNew

if TYPE_CHECKING:
    from alembic.config import Config

UPGRADE_LOCK = 7_226_352  # PostgreSQL advisory lock: two upgrades at once take turns


def upgrade(engine: sa.Engine) -> str:
    """Run the migrations that are missing, in one transaction. Returns the revision reached. Raises SchemaTooNew."""
    from alembic import command

    with transaction(engine, long=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
        found = _revision(connection)
        _refuse_newer(found)
        command.upgrade(_config(connection), "head")
        reached = _revision(connection) or ""
        if reached != found and connection.dialect.name == "postgresql":
            for comment in comments(VIEWS):  # in no migration, since their words may change
                connection.exec_driver_sql(comment.replace("%", "%%"))
        return reached


def check_schema(engine: sa.Engine, *, newer: bool = False) -> str:
    """Return the revision of the database. Raises SchemaOutdated when it is not the newest one.

    newer: a newer one will do as well, if it says that code of this version works there.
    """
    with reading(engine) as connection:
        found = _revision(connection)
    wanted = newest_revision()
    if newer and found is not None and _number(found) > _number(wanted) >= _oldest(found):
        return found
    _refuse_newer(found)
    if found != wanted:
        state = "has no schema yet" if found is None else f"has schema {found}"
        raise SchemaOutdated(f"the database {state}, this version needs {wanted}: run `scanfleet db upgrade`")
    return found or ""


def newest_revision() -> str:
    """Return the newest revision of this version: file names of migrations begin with consecutive revisions."""
    names = [entry.name for entry in (resources.files("scanfleet.migrations") / "versions").iterdir()]
    return max(name.partition("_")[0] for name in names if name.endswith(".py") and name[0].isdigit())


def _refuse_newer(found: str | None) -> None:
    """Raise SchemaTooNew for a revision that this version does not know."""
    if found is not None and _number(found) > _number(newest_revision()):
        raise SchemaTooNew(f"this scanfleet is older than the database (revision {_number(found)}): update scanfleet")


def _number(revision: str) -> str:
    return revision.partition("-")[0]


def _oldest(revision: str) -> str:
    """Return the oldest revision whose code works on this one; empty: all do."""
    return revision.partition("-")[2]


@contextmanager
def ledger(settings: Settings, *, newer: bool = False, only_reads: bool = False) -> Iterator[sa.Engine]:
    """Open an engine on a database with the current schema, and dispose of it at the end.

    newer: as in `check_schema`. Workers pass it: those of the release before continue while a fleet is updated.
    only_reads: as in `connect`.

    The embedded database is upgraded on the way; a server's only by `scanfleet db upgrade`, because its owner decides
    when. Raises SchemaOutdated, and the errors of `connect_at_start`.
    """
    with started(connect(settings, only_reads=only_reads)) as engine:
        if settings.database_url is None:
            try:
                check_schema(engine, newer=newer)
            except SchemaOutdated:
                if engine.url.database is None:  # a file that may only be read
                    raise
                upgrade(engine)
        else:
            check_schema(engine, newer=newer)
        yield engine


@contextmanager
def connect_at_start(settings: Settings) -> Iterator[sa.Engine]:
    """Open an engine that has connected once, and dispose of it at the end.

    Raises BadSettings where waiting does not help (password, certificate), and DatabaseUnavailable where it may.
    """
    with started(connect(settings)) as engine:
        yield engine


@contextmanager
def started(engine: sa.Engine) -> Iterator[sa.Engine]:
    """Let an engine connect once, and dispose of it at the end. Errors as in `connect_at_start`."""
    try:
        try:
            with reading(engine) as connection:
                connection.execute(sa.select(1))
        except DatabaseUnavailable as error:
            refuse_at_start(error)
            raise
        yield engine
    finally:
        engine.dispose()


def _config(connection: sa.Connection | None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "scanfleet.migrations:")
    config.attributes["connection"] = connection
    return config


def _revision(connection: sa.Connection) -> str | None:
    """Return the newest migration that ran; None: none did."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
