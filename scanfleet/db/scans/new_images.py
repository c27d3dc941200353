"""New images of a scan: written in batches, each image once, and none that was forgotten."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from scanfleet.db.bulk import insert_rows
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

    @property
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
) -> list[int]:
    """Add at most `at_most` images that the scan does not hold yet. Returns the ids of the new batches."""
    new = not_yet_held(connection, scan_id, images)
    # Read last: an image that is no longer held is in there by then.
    forgotten = forgotten_of(connection, scan_id, {image.uri for image in new})
    fresh = _still_there(connection, [image for image in new if image.uri not in forgotten])[:at_most]
    chunks = [fresh[start : start + batch_images] for start in range(0, len(fresh), batch_images)]
    ids = []
    for chunk in chunks:
        batch_id = connection.execute(
            sa.insert(Batch)
            .values(scan_id=scan_id, queue=queue, state="ready", n_images=len(chunk))
            .returning(Batch.id)
        ).scalar_one()
        ids.append(batch_id)
        common = {"scan_id": scan_id, "batch_id": batch_id, "state": "pending"}
        rows = [vars(image) | common | {"identity": image.identity} for image in chunk]
        insert_rows(connection, Image, rows)
    return ids


_HELD = sa.select(Image.identity).where(
    Image.scan_id == sa.bindparam("scan"), Image.identity.in_(sa.bindparam("identities", expanding=True))
)


def not_yet_held(connection: sa.Connection, scan_id: str, images: Sequence[NewImage]) -> list[NewImage]:
    """Return the images that the scan does not hold, each once. Some of them may be forgotten."""
    by_identity = {image.identity: image for image in images}  # a manifest may name an image twice
    for held in connection.execute(_HELD, {"scan": scan_id, "identities": list(by_identity)}).scalars():
        del by_identity[held]
    return list(by_identity.values())


def _still_there(connection: sa.Connection, images: Sequence[NewImage]) -> Sequence[NewImage]:
    """Return the images without those that renew a deleted one; the others stay until the transaction ends."""
    renewed = [image.rescan_of for image in images if image.rescan_of is not None]
    if not renewed:
        return images
    query = sa.select(Image.id).where(Image.id.in_(renewed)).order_by(Image.id)
    there = set(connection.execute(query.with_for_update(read=True, key_share=True)).scalars())
    return [image for image in images if image.rescan_of is None or image.rescan_of in there]
