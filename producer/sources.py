"""A source is where images come from; it becomes a lazy stream, however many millions of images there are.

This module knows nothing about scans, batches and the database.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scanfleet.errors import AccessDenied, BadSource, SourceNotFound
from scanfleet.images import SUFFIXES
from scanfleet.objects import FolderStore, ObjectStore, file_etag, path_to_uri
from scanfleet.redaction import is_presigned
from scanfleet.settings import Settings
from scanfleet.store.batches import NewImage

MANIFEST_SUFFIXES = (".txt", ".csv", ".jsonl")

Skip = Callable[[str], bool]  # says of a folder, by its path below the source, that nothing in it is wanted


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One listed file, before the filters. `path`: its name below the source, which globs are matched on."""

    image: NewImage
    path: str


class Source(Protocol):
    """One place images come from.

    name: absolute, the same from every working directory.
    sifts_by_suffix: it lists whatever lies there, so that files which are no images have to be left out.
    resumable: `candidates(after=uri)` goes on behind that uri without listing what came before.
    """

    name: str
    sifts_by_suffix: bool
    resumable: bool

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        """Raises SourceNotFound, AccessDenied, BadManifest, StoreUnavailable, also in the midst of the stream."""
        ...


class FolderSource:
    """Every file below a folder."""

    sifts_by_suffix = True
    resumable = False

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self.name = path_to_uri(os.fsencode(self._folder))

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        top = self._folder.rstrip("/") + "/"
        store = FolderStore(Path(self._folder), skip=lambda folder: skip(folder.removeprefix(top)))
        start = path_to_uri(os.fsencode(top))
        for found in store.list(self._folder):
            image = NewImage(uri=found.uri, root=self._folder, etag=found.etag, size=found.size)
            yield Candidate(image=image, path=found.uri.removeprefix(start))


class FileSource:
    """A single image, named as such: taken whatever its suffix."""

    sifts_by_suffix = False
    resumable = False

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.name = path_to_uri(os.fsencode(self._path))

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        image = local_image(os.fsencode(self._path), root=os.fspath(self._path.parent))
        yield Candidate(image=image, path=self._path.name)


class BucketSource:
    """Every object under `s3://bucket/prefix`, in the order of the keys."""

    sifts_by_suffix = True
    resumable = True

    def __init__(self, uri: str, store: ObjectStore) -> None:
        self.name = uri if "/" in uri.removeprefix("s3://") else f"{uri}/"
        self._store = store

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        # Globs see what follows the last "/" of the prefix: s3://b/2026/ad lists 2026/ads/x.jpg as ads/x.jpg.
        start = self.name[: self.name.rfind("/") + 1]
        for found in self._store.list(self.name, after=after):
            image = NewImage(uri=found.uri, etag=found.etag, size=found.size)
            yield Candidate(image=image, path=found.uri.removeprefix(start))


def local_image(path: bytes, *, root: str, meta: dict[str, object] | None = None) -> NewImage:
    """A file as it stands now; one that is not there is listed all the same, so that its absence gets recorded."""
    try:
        status = os.stat(path)
    except OSError:
        return NewImage(uri=path_to_uri(path), root=root, meta=meta)
    return NewImage(uri=path_to_uri(path), root=root, etag=file_etag(status), size=status.st_size, meta=meta)


def open_source(text: str, settings: Settings) -> Source:
    """The source that a person named: folder, manifest, single image or s3://bucket/prefix.

    Raises SourceNotFound, AccessDenied, BadSource. A bucket is not asked before it is listed.
    """
    if is_presigned(text):
        raise BadSource("a presigned address is a password and expires: give s3://bucket/prefix")
    if not text:  # as a shell makes of a variable that is not set; it must not mean the working folder
        raise BadSource("the source is empty: name a folder, s3://bucket/prefix, an image or a manifest")
    if text.startswith("s3://"):
        from scanfleet.objects_s3 import S3Store, split_s3

        split_s3(text)
        return BucketSource(text, S3Store.connect(settings))
    if "://" in text:
        raise BadSource(f"{text.split('://')[0]}:// is not supported: give a folder, s3://bucket/prefix or a manifest")
    return _open_local(Path(text).expanduser())


def _open_local(path: Path) -> Source:
    from producer.manifest import ManifestSource

    try:
        status = os.stat(path)
    except PermissionError:
        raise AccessDenied(f"no permission to reach {path}") from None
    except (OSError, ValueError):  # also a name that no file system takes
        raise SourceNotFound(f"no such folder or file: {path}") from None
    if stat.S_ISDIR(status.st_mode):
        return FolderSource(path)
    suffix = path.suffix.lower()
    if suffix in MANIFEST_SUFFIXES:
        return ManifestSource(path)
    if suffix in SUFFIXES:
        return FileSource(path)
    known = ", ".join(MANIFEST_SUFFIXES)
    raise BadSource(f"{path} is neither a folder nor an image nor a manifest ({known})")
