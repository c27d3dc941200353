"""Leases of images under review: taken, released by a decision, given to others by a skip, ended by time.

A lease belongs to a check and to an image's bytes, so that the same picture under two names is before one person only.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from scanfleet.db.engine import now
from scanfleet.db.tables.review import ReviewLease as Lease


def taken_from(connection: sa.Connection, check_name: str, *, holder: str) -> set[str]:
    """Return the contents that this holder is not handed: others have them, or it skipped them."""
    theirs = sa.and_(Lease.holder != holder, ~Lease.skipped)
    mine = sa.and_(Lease.holder == holder, Lease.skipped)
    query = sa.select(Lease.content_sha256).where(Lease.check_name == check_name, Lease.expires_at > now(connection))
    return set(connection.execute(query.where(sa.or_(theirs, mine))).scalars())


def take(
    connection: sa.Connection, check_name: str, contents: Sequence[str], *, holder: str, lasts: timedelta
) -> list[str]:
    """Lease those of these contents that are free, or the holder's already; return them in the order given.

    One statement: of two who ask at once, the second waits for the first and is left what remains.
    """
    if not contents:
        return []
    at = now(connection)
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = {"check_name": check_name, "holder": holder, "skipped": False, "expires_at": at + lasts}
    # Sorted: two statements lock their rows in one order, and never wait for each other.
    insert = dialect.insert(Lease).values([row | {"content_sha256": each} for each in sorted(set(contents))])
    mine = sa.and_(Lease.holder == holder, ~Lease.skipped)
    left = sa.and_(Lease.holder != holder, Lease.skipped)
    statement = insert.on_conflict_do_update(
        index_elements=["check_name", "content_sha256"],
        set_={name: insert.excluded[name] for name in ("holder", "skipped", "expires_at")},
        where=sa.or_(Lease.expires_at <= at, mine, left),
    ).returning(Lease.content_sha256)
    got = set(connection.execute(statement).scalars())
    return [each for each in dict.fromkeys(contents) if each in got]


def release(connection: sa.Connection, check_name: str, content_sha256: str, *, holder: str) -> None:
    """End a holder's lease: the image is decided."""
    connection.execute(sa.delete(Lease).where(*_of(check_name, content_sha256, holder)))


def skip(connection: sa.Connection, check_name: str, content_sha256: str, *, holder: str) -> None:
    """Leave an image to others. The holder is asked again once the lease has ended."""
    connection.execute(sa.update(Lease).where(*_of(check_name, content_sha256, holder)).values(skipped=True))


def delete_ended(connection: sa.Connection) -> int:
    """Delete the leases that have ended; return their number."""
    return connection.execute(sa.delete(Lease).where(Lease.expires_at <= now(connection))).rowcount


def _of(check_name: str, content_sha256: str, holder: str) -> tuple[sa.ColumnElement[bool], ...]:
    return Lease.check_name == check_name, Lease.content_sha256 == content_sha256, Lease.holder == holder
