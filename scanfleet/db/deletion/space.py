"""What a database file keeps of deleted rows."""

from __future__ import annotations

import contextlib

import sqlalchemy as sa

from scanfleet.db.errors import named_errors


def give_space_back(engine: sa.Engine) -> None:
    """Empty SQLite's log, which holds pages from before the deletion. PostgreSQL's autovacuum needs no help.

    The pages of the file itself are overwritten with zeros as rows go (secure_delete); the file keeps its size.
    """
    if engine.dialect.name == "sqlite":
        with named_errors(), contextlib.closing(engine.raw_connection()) as connection:  # outside a transaction
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
