"""Find images that belong together: by given groups, by near hashes, and by the closure of both.

New images are linked with each other first. Then each stored image is visited once, and anchors those linked to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scanfleet.perceptual_hash import HashIndex

SHARES = (("train", 0.6), ("calibration", 0.15), ("threshold", 0.1), ("golden", 0.15))

Node = tuple[str, str]  # ("phash", hash) or ("group", name)


@dataclass(frozen=True, kw_only=True)
class SeenImage:
    """An image that was fetched and decoded. group: a bag or session that a person named.

    several: its file holds several pictures, and no verdict names one of them.
    """

    content_sha256: str
    uri: str
    root: str | None
    etag: str | None
    width: int  # pixels, upright
    height: int
    phash: str  # scanfleet.perceptual_hash
    group: str | None = None
    several: bool = False


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A cluster and its split."""

    cluster: str
    split: str


def split_of(cluster: str) -> str:
    """Return the split of a new cluster, which depends on its name alone."""
    position = int.from_bytes(hashlib.sha256(f"split {cluster}".encode()).digest()[:8]) / 2**64
    for split, share in SHARES:
        position -= share
        if position < 0:
            return split
    return SHARES[-1][0]


class Links:
    """Links of new images with each other, and with stored images."""

    def __init__(self, images: Sequence[SeenImage]) -> None:
        self.known: dict[str, Anchor] = {}  # stored images, by content hash
        self.alike: set[str] = set()  # hashes that several images share, exactly or nearly
        self._images = {image.content_sha256: image for image in images}
        self._parents: dict[Node, Node] = {}
        self._anchors: dict[Node, set[Anchor]] = {}
        self._least: dict[Node, str] = {}
        self._joined = False
        self._groups: dict[str, set[str]] = {}  # content hash -> groups given with the new images
        for image in images:
            if image.group is not None:
                self._groups.setdefault(image.content_sha256, set()).add(image.group)
        self._index = HashIndex()
        self._link_phashes()

    def _link_phashes(self) -> None:
        first: dict[str, str] = {}  # phash -> content hash
        for image in self._images.values():
            if first.setdefault(image.phash, image.content_sha256) != image.content_sha256:
                self.alike.add(image.phash)
        for phash in first:
            for other in self._index.near(phash):
                self.alike |= {phash, other}
                self._join(("phash", phash), ("phash", other))
            self._index.add(phash, phash)

    def meet(self, row: Any) -> None:
        """Visit a stored image: new images with a near hash or in its group are anchored to its cluster."""
        anchor = Anchor(cluster=row.cluster, split=row.split)
        groups = set() if row.given_group is None else {row.given_group}
        if row.content_sha256 in self._images:
            self.known[row.content_sha256] = anchor
            groups |= self._groups.get(row.content_sha256, set())
        for group in groups:
            self._anchors.setdefault(("group", group), set()).add(anchor)
        for phash in self._index.near(row.phash):
            if row.content_sha256 not in self._images or phash != row.phash:
                self.alike.add(phash)
            self._anchors.setdefault(("phash", phash), set()).add(anchor)

    def home(self, image: SeenImage, *, wanted: str | None, pinned: bool) -> Anchor:
        """Return the cluster and split of a new image."""
        self._join_groups()
        root = self._root(("phash", image.phash))
        anchors = self._anchors.get(root, set())
        name = self._least[root]
        splits = {anchor.split for anchor in anchors}
        if len(splits) > 1:
            return Anchor(cluster=f"between-{name[-16:]}", split="none")
        if anchors:
            return min(anchors, key=lambda anchor: anchor.cluster)
        split = wanted or split_of(name)
        # A golden set that people chose grows only by their choice.
        return Anchor(cluster=name, split="train" if pinned and wanted is None and split == "golden" else split)

    def _join_groups(self) -> None:
        """Join new images of a group, and their anchors, once all stored images were visited."""
        if self._joined:
            return
        self._joined = True
        new_images = {sha: image for sha, image in self._images.items() if sha not in self.known}
        for sha, image in new_images.items():
            for group in self._groups.get(sha, ()):
                self._join(("phash", image.phash), ("group", group))
        anchors, self._anchors = self._anchors, {}
        for node, some in anchors.items():
            self._anchors.setdefault(self._root(node), set()).update(some)
        for sha, image in new_images.items():
            root = self._root(("phash", image.phash))
            for name in (*(_group_cluster(group) for group in self._groups.get(sha, ())), f"look-{sha[:16]}"):
                self._least[root] = min(name, self._least.get(root, name))

    def _root(self, node: Node) -> Node:
        parent = self._parents.setdefault(node, node)
        while parent != node:
            self._parents[node] = self._parents[parent]  # halves the path for the next search
            node, parent = parent, self._parents[parent]
        return node

    def _join(self, one: Node, other: Node) -> None:
        self._parents[self._root(one)] = self._root(other)


def _group_cluster(group: str) -> str:
    return f"group-{hashlib.sha256(group.encode()).hexdigest()[:16]}"  # sorts before look-
