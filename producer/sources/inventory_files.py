"""The files of an S3 Inventory: where it was delivered, or in a folder. Parts are read once their MD5 is right."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from scanfleet.errors import AccessDenied, BadManifest, ImageError, ObjectRefused, SourceNotFound
from scanfleet.producer.sources.manifest_source import opened
from scanfleet.storage.base import ObjectStore, Span

MOST_MANIFEST_BYTES = 64 << 20
CHUNK_BYTES = 8 << 20


class Files(Protocol):
    def manifest(self) -> bytes:
        """Raises SourceNotFound, AccessDenied, StoreUnavailable."""
        ...

    def part(self, key: str, *, destination: str, md5: str | None) -> AbstractContextManager[IO[bytes]]:
        """Open a part. Raises BadManifest for other bytes than the manifest names, and the same as `manifest`."""
        ...


class FolderFiles:
    """An inventory in a folder: parts lie where their key says below any folder above, or beside the manifest."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self) -> bytes:
        with opened(self._path, words=str(self._path)) as file:
            return file.read(MOST_MANIFEST_BYTES)

    @contextmanager
    def part(self, key: str, *, destination: str, md5: str | None) -> Iterator[IO[bytes]]:
        part = self._find(key)
        with opened(part, words=str(part)) as file:
            digest = hashlib.md5(usedforsecurity=False)
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
            _require(key, md5, digest.hexdigest())
            file.seek(0)
            yield file

    def _find(self, key: str) -> Path:
        folder, name = self._path.parent, PurePosixPath(key).name
        places = [folder / "data" / name, folder.parent / "data" / name, folder / name]
        if ".." not in key.split("/") and not os.path.isabs(key):
            places += [above / key for above in self._path.parents]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise SourceNotFound(
                f"the part {key} of {self._path} is not there: copy the folder data/ beside it as well"
            )
        return found


class BucketFiles:
    """An inventory where S3 delivers it."""

    def __init__(self, uri: str, store: ObjectStore) -> None:
        self._uri = uri
        self._store = store

    def manifest(self) -> bytes:
        with _of_request(self._uri):
            return self._store.fetch(self._uri, etag=None, max_bytes=MOST_MANIFEST_BYTES).data

    @contextmanager
    def part(self, key: str, *, destination: str, md5: str | None) -> Iterator[IO[bytes]]:
        uri = f"s3://{destination}/{key}"
        digest = hashlib.md5(usedforsecurity=False)
        with tempfile.TemporaryFile() as file:
            with _of_request(uri):
                for chunk in self._chunks(uri):
                    digest.update(chunk)
                    file.write(chunk)
            _require(key, md5, digest.hexdigest())
            file.seek(0)
            yield file

    def _chunks(self, uri: str) -> Iterator[bytes]:
        at, size, etag = 0, 1, None
        while at < size:
            found = self._store.fetch(uri, etag=etag, max_bytes=CHUNK_BYTES, span=Span(at, CHUNK_BYTES))
            etag, size = found.etag, found.size or 0
            at += len(found.data)
            yield found.data


@contextmanager
def _of_request(uri: str) -> Iterator[None]:
    """An object that is named by a person is no image of a scan."""
    try:
        yield
    except ImageError as error:
        raise SourceNotFound(f"{uri}: {error.reason}: {error.detail}") from None
    except ObjectRefused as error:
        raise AccessDenied(str(error)) from None


def _require(key: str, md5: str | None, found: str) -> None:
    if md5 is not None and md5.lower() != found:
        raise BadManifest(f"the part {key} has the MD5 {found}, the manifest names {md5[:40]}: fetch it again")
