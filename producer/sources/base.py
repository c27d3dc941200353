"""What a source of images gives: candidates, and what was left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from scanfleet.db.scans.batches import NewImage
from scanfleet.storage.file_uri import file_etag, path_to_uri

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


def local_image(path: bytes, *, root: str, meta: dict[str, object] | None = None) -> NewImage:
    """A file as it stands now; one that is not there is listed all the same, so that its absence gets recorded."""
    try:
        status = os.stat(path)
    except OSError:
        return NewImage(uri=path_to_uri(path), root=root, meta=meta)
    return NewImage(uri=path_to_uri(path), root=root, etag=file_etag(status), size=status.st_size, meta=meta)
