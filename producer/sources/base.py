"""The protocol of image sources, their candidates, and the images that untrusted names refer to."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from scanfleet.config.web_hosts import web_address
from scanfleet.db.scans.new_images import NewImage
from scanfleet.producer.sources.manifest import MalformedLineError
from scanfleet.redaction import is_presigned
from scanfleet.storage.file_uri import file_etag, path_to_uri, uri_to_path
from scanfleet.storage.shards.member_uri import member_uri, split_member, version_of

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


def remote_image(text: str, hosts: Collection[str], meta: dict[str, Any] | None = None) -> NewImage | None:
    """Return the image of an address; None: it is a path. hosts: of https:// addresses. Raises MalformedLineError."""
    if is_presigned(text):
        raise MalformedLineError("a presigned URL is a secret and expires: write s3://bucket/key")
    if text.startswith("s3://"):
        if not all(text.removeprefix("s3://").partition("/")):
            raise MalformedLineError(f"{text!r} names no object: write s3://bucket/key")
        return NewImage(uri=text, meta=meta)
    if text.startswith("https://"):
        try:
            web_address(text, hosts)
        except ValueError as error:
            raise MalformedLineError(str(error)) from None
        return NewImage(uri=text, meta=meta)
    if "://" in text and not text.startswith("file:///"):
        raise MalformedLineError(
            f"{text.split('://')[0]}:// is not supported: write a path, s3://bucket/key or https://"
        )
    return None


def local_image(
    path: bytes, *, root: str, meta: dict[str, object] | None = None, member: str | None = None
) -> NewImage:
    """Return a file with its current version; a missing one is listed, too, so that the failure is recorded.

    member: of the archive at `path`; None: the path may name one itself.
    """
    version = _version(path)
    uri = path_to_uri(path)
    if member is None and version is None:
        shard, member = split_member(uri) or (uri, None)
        path = uri_to_path(shard)
        version = version if member is None else _version(path)
    if member is not None:
        pinned = None if version is None else version_of(version[0])
        return NewImage(uri=member_uri(path_to_uri(path), member), root=root, etag=pinned, meta=meta)
    etag, size = version or (None, None)
    return NewImage(uri=uri, root=root, etag=etag, size=size, meta=meta)


def _version(path: bytes) -> tuple[str, int] | None:
    """Return etag and size of a file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return file_etag(status), status.st_size
