"""Opens sources, which are lazy streams of images. Knows nothing of scans, batches and the database."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from producer.sources.base import Source
from producer.sources.listed import BucketSource, FileSource, FolderSource
from scanfleet.config.settings import Settings
from scanfleet.errors import AccessDenied, BadSource, SourceNotFound
from scanfleet.images import SUFFIXES
from scanfleet.redaction import is_presigned


def open_source(text: str, settings: Settings) -> Source:
    """Open a folder, a manifest, a single image or s3://bucket/prefix.

    Raises SourceNotFound, AccessDenied, BadSource. A bucket is not contacted before it is listed.
    """
    if is_presigned(text):
        raise BadSource("a presigned URL is a secret and expires: give s3://bucket/prefix")
    if not text:  # from an unset shell variable; it must not mean the working folder
        raise BadSource("the source is empty: name a folder, s3://bucket/prefix, an image or a manifest")
    if text.startswith("s3://"):
        from scanfleet.storage.s3 import S3Store
        from scanfleet.storage.s3_uri import split_s3

        split_s3(text)
        return BucketSource(text, S3Store.connect(settings))
    if "://" in text:
        raise BadSource(f"{text.split('://')[0]}:// is not supported: give a folder, s3://bucket/prefix or a manifest")
    return _open_local(Path(text).expanduser())


def _open_local(path: Path) -> Source:
    from producer.sources.manifest_source import KINDS, ManifestSource, manifest_kind

    try:
        status = os.stat(path)
    except PermissionError:
        raise AccessDenied(f"no permission to reach {path}") from None
    except (OSError, ValueError):  # ValueError: a name that no file system accepts
        raise SourceNotFound(f"no such folder or file: {path}") from None
    if stat.S_ISDIR(status.st_mode):
        return FolderSource(path)
    if manifest_kind(path) is not None:
        return ManifestSource(path)
    if path.suffix.lower() in SUFFIXES:
        return FileSource(path)
    known = ", ".join(KINDS)
    raise BadSource(f"{path} is neither a folder nor an image nor a manifest ({known})")
