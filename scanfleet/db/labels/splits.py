"""Which split a labelled image belongs to: found when it comes, and then for good.

Images that look alike, or that a person put into one group (a bag, a session), must not lie on both sides of a split.
A newcomer therefore joins the cluster of what it resembles or belongs to; one that lies between clusters of different
splits gets the split "none", and so does all that came with it. A new cluster's split follows from its name by hash,
whatever else there is: so splits stay as they are when the data grow.
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
LOCK = 0x5F1A_BE15  # of PostgreSQL: one process at a time gives images their place

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an image lies.

    split: in the eyes of the check it was labelled for; "none": it is used for nothing there. stored: for all checks.
    known: it was there before, and stays where it was. near: another image looks like it. refused: another split was
    asked for than where its cluster lies.
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
    """By content hash: where these images lie, or will when they are added now. Writes nothing.

    One pass over all labelled images, page by page, unless all of these are known; memory grows with `images` alone.
    wanted: a split for those that nothing binds to another one.
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
    """Give images their place and keep it; known ones only learn where their bytes are now. See `place_images`."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    places = place_images(connection, check_name, images, wanted=wanted)
    at = now(connection)
    newcomers = {image.content_sha256: image for image in images if not places[image.content_sha256].known}
    for some in _chunks(newcomers.values()):
        rows = [_row(image, places[image.content_sha256]) | {"added_at": at} for image in some]
        connection.execute(sa.insert(LabelledImage), rows)
    for some in _chunks(image for image in images if places[image.content_sha256].known):
        _renew(connection, some)
    return places


def _stored(connection: sa.Connection) -> Iterator[Any]:
    """Every labelled image, page by page."""
    after = ""
    while True:
        query = sa.select(*_LINKS).where(LabelledImage.content_sha256 > after).order_by(LabelledImage.content_sha256)
        page = connection.execute(query.limit(PAGE_IMAGES)).all()
        yield from page
        if len(page) < PAGE_IMAGES:
            return
        after = page[-1].content_sha256


def _rows_of(connection: sa.Connection, images: Sequence[str]) -> list[Any]:
    """Those of these images that are stored."""
    found: list[Any] = []
    for some in _chunks(images):
        found += connection.execute(sa.select(*_LINKS).where(LabelledImage.content_sha256.in_(some))).all()
    return found


_LINKS = [
    LabelledImage.__table__.c[name] for name in ("content_sha256", "phash", "given_group", "cluster", "split")
]  # what links images


def golden_by_hash(connection: sa.Connection, check_name: str) -> set[str]:
    """Labelled images of a check that lie in golden without anybody's choice: a chosen golden set shuts them out."""
    query = (
        sa.select(Label.content_sha256)
        .join(LabelledImage, LabelledImage.content_sha256 == Label.content_sha256)
        .where(Label.check_name == check_name, LabelledImage.split == "golden")
        .where(~is_pinned(check_name, LabelledImage.content_sha256))
    )
    return set(connection.execute(query).scalars())


def _chosen(connection: sa.Connection, check_name: str, images: Sequence[str]) -> set[str]:
    """Which of these known images people chose for the golden set of this check."""
    found: set[str] = set()
    for some in _chunks(images):
        query = sa.select(LabelledImage.content_sha256).where(
            LabelledImage.content_sha256.in_(some), is_pinned(check_name, LabelledImage.content_sha256)
        )
        found |= set(connection.execute(query).scalars())
    return found


def _row(image: SeenImage, place: Place) -> dict[str, Any]:
    seen = {name: getattr(image, name) for name in SeenImage.__dataclass_fields__ if name != "group"}
    return seen | {"given_group": image.group, "cluster": place.cluster, "split": place.stored}


def _renew(connection: sa.Connection, images: Sequence[SeenImage]) -> None:
    """Where the bytes of known images were found last."""
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
