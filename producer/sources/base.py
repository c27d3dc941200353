"""The protocol of image sources, and their candidates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from scanfleet.db.scans.batches import NewImage
from scanfleet.storage.file_uri import file_etag, path_to_uri

Skip = Callable[[str], bool]  # takes a folder's path below the source; True: nothing in it is wanted


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One listed file, before the filters. path: its name below the source, which globs are matched against."""

    image: NewImage
    path: str


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A part of a source that names no image. It is reported, and the others are taken."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


class Source(Protocol):
    """One source of images.

    name: absolute, the same from every working folder.
    sifts_by_suffix: it lists all files, so those that are not images have to be skipped.
    resumable: `candidates(after=uri)` continues after that uri without listing the images before it.
    root: the folder that its files must not leave; None where it is a bucket.
    top: what the paths of its candidates are relative to; "" where they are matched as written.
    """

    name: str
    sifts_by_suffix: bool
    resumable: bool

    @property
    def root(self) -> str | None: ...

    @property
    def top(self) -> str: ...

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate | LeftOut]:
        """Raises SourceNotFound, AccessDenied, BadManifest, StoreUnavailable, also in the middle of the stream."""
        ...


def local_image(path: bytes, *, root: str, meta: dict[str, object] | None = None) -> NewImage:
    """Return a file with its current version; a missing file is listed, too, so that the failure is recorded."""
    try:
        status = os.stat(path)
    except OSError:
        return NewImage(uri=path_to_uri(path), root=root, meta=meta)
    return NewImage(uri=path_to_uri(path), root=root, etag=file_etag(status), size=status.st_size, meta=meta)
