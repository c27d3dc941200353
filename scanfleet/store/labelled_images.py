"""Which split a labelled image belongs to: found when it comes, and then for good.

Images that look alike, or that a person put into one group (a bag, a session), must not lie on both sides of a split.
A newcomer therefore joins the cluster of what it resembles or belongs to; one that lies between clusters of different
splits gets the split "none", and so does all that came with it. A new cluster's split follows from its name by hash,
whatever else there is: so splits stay as they are when the data grow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa

from scanfleet.looks import LookIndex
from scanfleet.store.engine import now
from scanfleet.store.label_query import has_pins, is_pinned
from scanfleet.store.tables import LabelledImage

SHARES = (("train", 0.6), ("calibration", 0.15), ("threshold", 0.1), ("golden", 0.15))
PAGE_IMAGES = 5000
CHUNK_ROWS = 500  # of one statement
LOCK = 0x5F1A_BE15  # of PostgreSQL: one process at a time gives images their place

T = TypeVar("T")
Node = tuple[str, str]  # ("look", look) or ("group", name)


@dataclass(frozen=True, kw_only=True)
class SeenImage:
    """An image that was fetched and looked at. group: a bag or session that a person named."""

    content_sha256: str
    uri: str
    root: str | None
    etag: str | None
    width: int  # pixels, upright
    height: int
    look: str  # scanfleet.looks
    group: str | None = None


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


@dataclass(frozen=True, kw_only=True)
class _Anchor:
    cluster: str
    split: str


def place_images(
    connection: sa.Connection, check_name: str, images: Sequence[SeenImage], *, wanted: str | None = None
) -> dict[str, Place]:
    """By content hash: where these images lie, or will when they are added now. Writes nothing.

    One pass over all labelled images, page by page; memory grows with `images` alone.
    wanted: a split for those that nothing binds to another one.
    """
    links = _Links(images)
    for row in _stored(connection):
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
            near=image.look in links.alike,
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


def split_of(cluster: str) -> str:
    """The split of a new cluster, from its name alone."""
    draw = int.from_bytes(hashlib.sha256(f"split {cluster}".encode()).digest()[:8]) / 2**64
    for split, share in SHARES:
        draw -= share
        if draw < 0:
            return split
    return SHARES[-1][0]


class _Links:
    """What the newcomers have in common with each other, and with what is stored."""

    def __init__(self, images: Sequence[SeenImage]) -> None:
        self.known: dict[str, _Anchor] = {}  # images that are stored already, by content hash
        self.alike: set[str] = set()  # looks that more than one image has, or nearly
        self._images = {image.content_sha256: image for image in images}
        self._parents: dict[Node, Node] = {}
        self._anchors: dict[Node, set[_Anchor]] = {}
        self._least: dict[Node, str] = {}
        self._joined = False
        self._groups: dict[str, set[str]] = {}  # content hash -> groups that it was given now
        for image in images:
            if image.group is not None:
                self._groups.setdefault(image.content_sha256, set()).add(image.group)
        self._index = LookIndex()
        self._link_looks()

    def _link_looks(self) -> None:
        first: dict[str, str] = {}  # look -> content hash
        for image in self._images.values():
            if first.setdefault(image.look, image.content_sha256) != image.content_sha256:
                self.alike.add(image.look)
        for look in first:
            for other in self._index.near(look):
                self.alike |= {look, other}
                self._join(("look", look), ("look", other))
            self._index.add(look, look)

    def meet(self, row: Any) -> None:
        """A stored image: those that resemble it or belong to it are anchored where it lies."""
        anchor = _Anchor(cluster=row.cluster, split=row.split)
        groups = set() if row.given_group is None else {row.given_group}
        if row.content_sha256 in self._images:
            self.known[row.content_sha256] = anchor
            groups |= self._groups.get(row.content_sha256, set())
        for group in groups:
            self._anchors.setdefault(("group", group), set()).add(anchor)
        for look in self._index.near(row.look):
            if row.content_sha256 not in self._images or look != row.look:
                self.alike.add(look)
            self._anchors.setdefault(("look", look), set()).add(anchor)

    def home(self, image: SeenImage, *, wanted: str | None, pinned: bool) -> _Anchor:
        """Where a newcomer goes."""
        self._join_groups()
        root = self._root(("look", image.look))
        anchors = self._anchors.get(root, set())
        name = self._least[root]
        splits = {anchor.split for anchor in anchors}
        if len(splits) > 1:
            return _Anchor(cluster=f"between-{name[-16:]}", split="none")
        if anchors:
            return min(anchors, key=lambda anchor: anchor.cluster)
        drawn = wanted or split_of(name)
        # A golden set that people chose grows by their choice alone.
        return _Anchor(cluster=name, split="train" if pinned and wanted is None and drawn == "golden" else drawn)

    def _join_groups(self) -> None:
        """Once, when all that is stored was met: newcomers of a group belong together; so do their anchors."""
        if self._joined:
            return
        self._joined = True
        newcomers = {sha: image for sha, image in self._images.items() if sha not in self.known}
        for sha, image in newcomers.items():
            for group in self._groups.get(sha, ()):
                self._join(("look", image.look), ("group", group))
        anchors, self._anchors = self._anchors, {}
        for node, some in anchors.items():
            self._anchors.setdefault(self._root(node), set()).update(some)
        for sha, image in newcomers.items():
            root = self._root(("look", image.look))
            for name in (*(_group_cluster(group) for group in self._groups.get(sha, ())), f"look-{sha[:16]}"):
                self._least[root] = min(name, self._least.get(root, name))

    def _root(self, node: Node) -> Node:
        parent = self._parents.setdefault(node, node)
        while parent != node:
            self._parents[node] = self._parents[parent]  # halves the way for the next one
            node, parent = parent, self._parents[parent]
        return node

    def _join(self, one: Node, other: Node) -> None:
        self._parents[self._root(one)] = self._root(other)


def _group_cluster(group: str) -> str:
    return f"group-{hashlib.sha256(group.encode()).hexdigest()[:16]}"  # sorts before look-


def _stored(connection: sa.Connection) -> Iterator[Any]:
    """Every labelled image, page by page."""
    names = ("content_sha256", "look", "given_group", "cluster", "split")
    columns = [LabelledImage.__table__.c[name] for name in names]
    after = ""
    while True:
        query = sa.select(*columns).where(LabelledImage.content_sha256 > after).order_by(LabelledImage.content_sha256)
        page = connection.execute(query.limit(PAGE_IMAGES)).all()
        yield from page
        if len(page) < PAGE_IMAGES:
            return
        after = page[-1].content_sha256


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
