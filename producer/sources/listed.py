"""Sources that are listed: a folder, one file or object, a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from scanfleet.db.scans.new_images import NewImage
from scanfleet.producer.sources.base import Candidate, Skip, local_image
from scanfleet.storage.base import ObjectStore
from scanfleet.storage.file_uri import path_to_uri
from scanfleet.storage.folder import FolderStore


class FolderSource:
    """Every file below a folder."""

    sifts_by_suffix = True
    resumable = False

    def __init__(self, folder: Path) -> None:
        self.root = os.path.realpath(folder)
        self.name = path_to_uri(os.fsencode(self.root))
        self.top = f"{self.name.rstrip('/')}/"

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        top = self.root.rstrip("/") + "/"
        store = FolderStore(Path(self.root), skip=lambda folder: skip(folder.removeprefix(top)))
        start = path_to_uri(os.fsencode(top))
        for found in store.list(self.root):
            image = NewImage(uri=found.uri, root=self.root, etag=found.etag, size=found.size)
            yield Candidate(image=image, path=found.uri.removeprefix(start))


class FileSource:
    """A single image, taken whatever its suffix; or an archive, of whose members images are taken."""

    resumable = False
    top = ""

    def __init__(self, path: Path, *, sifts_by_suffix: bool = False) -> None:
        self.sifts_by_suffix = sifts_by_suffix
        self._path = path.absolute()
        self.root = os.fspath(self._path.parent)
        self.name = path_to_uri(os.fsencode(self._path))

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        image = local_image(os.fsencode(self._path), root=self.root)
        yield Candidate(image=image, path=self._path.name)


class OneImageSource:
    """A single image by its address, which is not listed: the version that is read first counts."""

    sifts_by_suffix = False
    resumable = False
    top = ""

    def __init__(self, image: NewImage) -> None:
        self._image = image
        self.name = image.uri
        self.root = image.root

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        yield Candidate(image=self._image, path=self.name)


class BucketSource:
    """Every object under `s3://bucket/prefix`, in the order of keys."""

    sifts_by_suffix = True
    resumable = True

    root = None

    def __init__(self, uri: str, store: ObjectStore) -> None:
        self.name = uri if "/" in uri.removeprefix("s3://") else f"{uri}/"
        # Globs start after the last "/" of the prefix: s3://b/2026/ad lists 2026/ads/x.jpg as ads/x.jpg.
        self.top = self.name[: self.name.rfind("/") + 1]
        self._store = store

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        for found in self._store.list(self.name, after=after):
            image = NewImage(uri=found.uri, etag=found.etag, size=found.size)
            yield Candidate(image=image, path=found.uri.removeprefix(self.top))
