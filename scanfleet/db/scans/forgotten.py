"""Images that were forgotten: a hash of each name stays, so that no listing brings the image back.

A name is forgotten for every scan, or, where its time was over, for the scan that held it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from scanfleet.db.engine import now
from scanfleet.db.tables import Forgotten

EVERY = "*"  # in the place of a scan's id: for all of them


def hash_of(uri: str) -> str:
    return hashlib.sha256(uri.encode("utf-8", "surrogateescape")).hexdigest()


def remember(connection: sa.Connection, names: Iterable[tuple[str, str]]) -> None:
    """Store (uri, id of a scan or EVERY) as forgotten; those that are known stay."""
    at = now(connection)
    rows = [{"uri_sha256": hash_of(uri), "scan_id": scan_id, "at": at} for uri, scan_id in sorted(set(names))]
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(Forgotten).on_conflict_do_nothing(), rows)


class Named(Protocol):
    @property
    def uri(self) -> str: ...


def forgotten_of(connection: sa.Connection, scan_id: str, images: Collection[Named]) -> set[str]:
    """Return those of the names of these images that a scan must not take."""
    if connection.execute(sa.select(Forgotten.uri_sha256).limit(1)).first() is None:  # most ledgers: hashing costs more
        return set()
    by_hash = {hash_of(image.uri): image.uri for image in images}
    query = sa.select(Forgotten.uri_sha256).where(
        Forgotten.uri_sha256.in_(list(by_hash)), Forgotten.scan_id.in_((EVERY, scan_id))
    )
    return {by_hash[found] for found in connection.execute(query).scalars()}
