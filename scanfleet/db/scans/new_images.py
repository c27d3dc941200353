"""New images of a scan: written in batches, each image once, and none that was forgotten."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from scanfleet.db.bulk import array_literal, insert_columns
from scanfleet.db.scans.forgotten import forgotten_of
from scanfleet.db.tables import Batch, Image


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """An image to add to the ledger."""

    uri: str
    root: str | None = None
    etag: str | None = None
    size: int | None = None
    meta: dict[str, Any] | None = None
    rescan_of: int | None = None  # the image of another scan that this one rescans
    drawn: str | None = None  # why a rescan chose it: band, audit, all

    @cached_property
    def identity(self) -> str:
        return hashlib.sha256(f"{self.uri}\0{self.etag or ''}".encode()).hexdigest()


def add_images(
    connection: sa.Connection,
    *,
    scan_id: str,
    queue: str,
    images: Sequence[NewImage],
    batch_images: int,
    at_most: int | None = None,
    urgent: bool = False,
) -> list[int]:
    """Add at most `at_most` images that the scan does not hold yet. Returns the ids of the new batches.

    urgent: workers claim these batches before all others.
    """
    new = not_yet_held(connection, scan_id, images)
    # Read last: an image that is no longer held is in there by then.
    forgotten = forgotten_of(connection, scan_id, new)
    left = [image for image in new if image.uri not in forgotten] if forgotten else new
    fresh = _still_there(connection, left)[:at_most]
    if not fresh:
        return []
    sizes = [min(batch_images, len(fresh) - start) for start in range(0, len(fresh), batch_images)]
    n_bytes = [
        sum(image.size or 0 for image in fresh[at : at + batch_images]) for at in range(0, len(fresh), batch_images)
    ]
    ids = _add_batches(connection, scan_id, queue, sizes, n_bytes, urgent=urgent)
    columns: dict[str, Sequence[Any]] = dict(
        zip(_COLUMNS, zip(*map(attrgetter(*_COLUMNS), fresh), strict=True), strict=True)
    )
    batch_ids = [batch_id for batch_id, size in zip(ids, sizes, strict=True) for _ in range(size)]
    same = {"scan_id": [scan_id] * len(fresh), "state": ["pending"] * len(fresh)}
    insert_columns(connection, Image, columns | {"batch_id": batch_ids, **same})
    return ids


_COLUMNS = ("identity", "uri", "root", "etag", "size", "meta", "rescan_of", "drawn")


def _add_batches(
    connection: sa.Connection, scan_id: str, queue: str, sizes: Sequence[int], n_bytes: Sequence[int], *, urgent: bool
) -> list[int]:
    """Add ready batches of these numbers of images and bytes, and return their ids in this order."""
    same = {"scan_id": scan_id, "queue": queue, "state": "ready", "urgent": True if urgent else None}
    rows = [same | {"n_images": n, "n_bytes": of} for n, of in zip(sizes, n_bytes, strict=True)]
    added = sa.insert(Batch).returning(Batch.id, sort_by_parameter_order=True)
    return list(connection.execute(added, rows).scalars())


_HELD = sa.select(Image.identity).where(
    Image.scan_id == sa.bindparam("scan"), Image.identity.in_(sa.bindparam("identities", expanding=True))
)
# One array to parse, and one look-up in the index for each image: tables without statistics, as all new ones are, lead
# other forms to plans that read the whole scan for each page. OFFSET keeps the look-up apart.
_HELD_ON_POSTGRESQL = sa.text(
    "SELECT identity FROM unnest(CAST(:identities AS text[])) AS given (identity) WHERE EXISTS"
    " (SELECT FROM images WHERE images.scan_id = :scan AND images.identity = given.identity OFFSET 0)"
)


def not_yet_held(connection: sa.Connection, scan_id: str, images: Sequence[NewImage]) -> list[NewImage]:
    """Return the images that the scan does not hold, each once. Some of them may be forgotten."""
    by_identity = {image.identity: image for image in images}  # a manifest may name an image twice
    names = list(by_identity)
    if connection.dialect.name == "postgresql":
        given = {"scan": scan_id, "identities": array_literal(names)}
        held = connection.execute(_HELD_ON_POSTGRESQL, given).scalars()
    else:
        held = connection.execute(_HELD, {"scan": scan_id, "identities": names}).scalars()
    for identity in held:
        del by_identity[identity]
    return list(by_identity.values())


def _still_there(connection: sa.Connection, images: Sequence[NewImage]) -> Sequence[NewImage]:
    """Return the images without those that renew a deleted one; the others stay until the transaction ends."""
    renewed = [image.rescan_of for image in images if image.rescan_of is not None]
    if not renewed:
        return images
    query = sa.select(Image.id).where(Image.id.in_(renewed)).order_by(Image.id)
    there = set(connection.execute(query.with_for_update(read=True, key_share=True)).scalars())
    return [image for image in images if image.rescan_of is None or image.rescan_of in there]
