"""Turns the names of images in untrusted files of labels into images that may be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import BadSource, SourceNotFound
from scanfleet.producer.sources.base import local_image
from scanfleet.producer.sources.manifest import MalformedLineError
from scanfleet.redaction import is_presigned
from scanfleet.storage.file_uri import uri_to_path


@dataclass(frozen=True, kw_only=True)
class Root:
    """The base of relative names: a folder, which they cannot leave, or s3://bucket/prefix."""

    folder: str | None = None  # real path
    prefix: str | None = None

    @property
    def path(self) -> Path | None:
        return None if self.folder is None else Path(self.folder)


def root_of(text: str | None, *, labels: Path) -> Root:
    """Return the root that was given, else the folder of the labels. Raises SourceNotFound, BadSource."""
    if text is not None and text.startswith("s3://"):
        from scanfleet.storage.s3.uri import split_s3

        split_s3(text)
        return Root(prefix=text.rstrip("/"))
    if text is not None and "://" in text:
        raise BadSource(f"--root {text.split('://')[0]}:// is not supported: give a folder or s3://bucket/prefix")
    folder = Path(text).expanduser() if text is not None else labels if labels.is_dir() else labels.parent
    if not folder.is_dir():
        raise SourceNotFound(f"--root: no such folder: {folder}")
    return Root(folder=os.path.realpath(folder))


def image_at(text: str, root: Root) -> NewImage:
    """Return the image that a name refers to. Raises MalformedLineError."""
    if is_presigned(text):
        raise MalformedLineError("a presigned URL is a secret and expires: write s3://bucket/key")
    if text.startswith("s3://"):
        if not all(text.removeprefix("s3://").partition("/")):
            raise MalformedLineError(f"{text!r} names no object: write s3://bucket/key")
        return NewImage(uri=text)
    if "://" in text and not text.startswith("file:///"):
        raise MalformedLineError(f"{text.split('://')[0][:20]}:// cannot be read: write a path or s3://bucket/key")
    path = uri_to_path(text)
    if b"\0" in path:
        raise MalformedLineError("the name contains a NUL byte")
    if path.startswith(b"/"):
        path = os.path.normpath(path)
        return local_image(path, root=os.fsdecode(os.path.dirname(path)))
    return _below_prefix(text, root.prefix) if root.folder is None else _below_folder(path, os.fsencode(root.folder))


def _below_folder(path: bytes, folder: bytes) -> NewImage:
    joined = os.path.normpath(os.path.join(folder, path))
    if not joined.startswith(folder.rstrip(b"/") + b"/"):
        raise MalformedLineError(f"{os.fsdecode(path)} is not below {os.fsdecode(folder)}: write the absolute path")
    return local_image(joined, root=os.fsdecode(folder))


def _below_prefix(text: str, prefix: str | None) -> NewImage:
    if ".." in text.split("/"):
        raise MalformedLineError(f"{text} is not below {prefix}: write the whole s3://bucket/key")
    return NewImage(uri=f"{prefix}/{text.removeprefix('./')}")


def named_image(text: str) -> NewImage:
    """Return an image that was named on the command line; relative names start at the working folder.

    Raises MalformedLineError.
    """
    if "://" in text:
        return image_at(text, Root(prefix=""))
    path = os.path.abspath(os.fsencode(os.path.expanduser(text)))
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):  # a missing folder is a wrong name here, not an unavailable store
        folder = os.path.dirname(folder)
    if b"\0" in path:
        raise MalformedLineError("the name contains a NUL byte")
    return local_image(path, root=os.fsdecode(folder))
