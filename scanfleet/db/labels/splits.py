"""The split of a labelled image: assigned when it is added, and permanent.

Images with near hashes, or that a person put into one group (a bag, a session), must not be in different splits. A new
image therefore joins the cluster of its near or grouped images. One between clusters of different splits gets the split
"none", and so do the new images linked with it. The split of a new cluster is a hash of its name, independent of all
other data: so splits do not change when the data grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa

from scanfleet.db.engine import now
from scanfleet.db.labels.clusters import Links, SeenImage
from scanfleet.db.labels.queries import has_pins, is_pinned
from scanfleet.db.tables import Label, LabelledImage

PAGE_IMAGES = 5000
CHUNK_ROWS = 500  # of one statement
LOCK = 0x5F1A_BE15  # PostgreSQL advisory lock: one process at a time places images

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The cluster and split of an image.

    split: for the check it was labelled for; "none": it is not used there. stored: the split in its row. known: it was
    stored before, and keeps its place. near: another image has a near hash. refused: the split asked for is not the one
    of its cluster.
    """

    cluster: str
    split: str
    stored: str
    known: bool
    near: bool
    refused: bool


def place_images(
    connection: sa.Connection, check_name: str, images: Sequence[SeenImage], *, wanted: str | None = None
) -> dict[str, Place]:
    """Return by content hash where these images are, or would be placed now. Writes nothing.

    Reads all labelled images once, page by page, unless all of these are stored; memory grows only with `images`.
    wanted: a split for images that are not bound to another one.
    """
    links = Links(images)
    names = list({image.content_sha256 for image in images})
    there = _rows_of(connection, names)
    for row in there if len(there) == len(names) else _stored(connection):
        links.meet(row)
    pinned = connection.execute(sa.select(has_pins(check_name))).scalar_one() or wanted == "golden"
    chosen = _chosen(connection, check_name, list(links.known))
    places = {}
    for image in images:
        known = links.known.get(image.content_sha256)
        home = known or links.home(image, wanted=wanted, pinned=bool(pinned))
        refused = wanted is not None and home.split != wanted
        mine = image.content_sha256 in chosen or (wanted == "golden" and not refused)
        places[image.content_sha256] = Place(
            cluster=home.cluster,
            split="none" if pinned and home.split == "golden" and not mine else home.split,
            stored=home.split,
            known=known is not None,
            near=image.phash in links.alike,
            refused=refused,
        )
    return places


def add_images(
    connection: sa.Connection, check_name: str, images: Sequence[SeenImage], *, wanted: str | None = None
) -> dict[str, Place]:
    """Place and store images; of stored ones only the location is updated. See `place_images`."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    places = place_images(connection, check_name, images, wanted=wanted)
    at = now(connection)
    new_images = {image.content_sha256: image for image in images if not places[image.content_sha256].known}
    for some in _chunks(new_images.values()):
        rows = [_row(image, places[image.content_sha256]) | {"added_at": at} for image in some]
        connection.execute(sa.insert(LabelledImage), rows)
    for some in _chunks(image for image in images if places[image.content_sha256].known):
        _renew(connection, some)
    return places


def _stored(connection: sa.Connection) -> Iterator[Any]:
    """Yield every labelled image, page by page."""
    after = ""
    while True:
        query = sa.select(*_LINKS).where(LabelledImage.content_sha256 > after).order_by(LabelledImage.content_sha256)
        page = connection.execute(query.limit(PAGE_IMAGES)).all()
        yield from page
        if len(page) < PAGE_IMAGES:
            return
        after = page[-1].content_sha256


def _rows_of(connection: sa.Connection, images: Sequence[str]) -> list[Any]:
    """Return the rows of these images that are stored."""
    found: list[Any] = []
    for some in _chunks(images):
        found += connection.execute(sa.select(*_LINKS).where(LabelledImage.content_sha256.in_(some))).all()
    return found


_LINKS = [
    LabelledImage.__table__.c[name] for name in ("content_sha256", "phash", "given_group", "cluster", "split")
]  # the columns that link images


def golden_by_hash(connection: sa.Connection, check_name: str) -> set[str]:
    """Return the labelled images of a check that are golden only by hash: a chosen golden set excludes them."""
    query = (
        sa.select(Label.content_sha256)
        .join(LabelledImage, LabelledImage.content_sha256 == Label.content_sha256)
        .where(Label.check_name == check_name, LabelledImage.split == "golden")
        .where(~is_pinned(check_name, LabelledImage.content_sha256))
    )
    return set(connection.execute(query).scalars())


def _chosen(connection: sa.Connection, check_name: str, images: Sequence[str]) -> set[str]:
    """Return those of these stored images that people chose for the golden set of this check."""
    found: set[str] = set()
    for some in _chunks(images):
        query = sa.select(LabelledImage.content_sha256).where(
            LabelledImage.content_sha256.in_(some), is_pinned(check_name, LabelledImage.content_sha256)
        )
        found |= set(connection.execute(query).scalars())
    return found


def _row(image: SeenImage, place: Place) -> dict[str, Any]:
    seen = {name: getattr(image, name) for name in SeenImage.__dataclass_fields__ if name not in ("group", "several")}
    return seen | {"given_group": image.group, "cluster": place.cluster, "split": place.stored}


def _renew(connection: sa.Connection, images: Sequence[SeenImage]) -> None:
    """Update where the bytes of stored images were found last."""
    update = (
        sa.update(LabelledImage)
        .where(LabelledImage.content_sha256 == sa.bindparam("b_sha"))
        .values(uri=sa.bindparam("b_uri"), root=sa.bindparam("b_root"), etag=sa.bindparam("b_etag"))
    )
    connection.execute(
        update,
        [
            {"b_sha": image.content_sha256, "b_uri": image.uri, "b_root": image.root, "b_etag": image.etag}
            for image in images
        ],
    )


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    stream = iter(items)
    while chunk := list(islice(stream, CHUNK_ROWS)):
        yield chunk
