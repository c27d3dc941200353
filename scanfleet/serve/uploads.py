"""Where uploaded images lie until their answer is there: `DAY/SHA256` in a place that all workers read.

The day is in the name so that what is old can be deleted without asking when each file was used last. An S3 prefix is
cleared by a lifecycle rule of its bucket.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from scanfleet.config.settings import Settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import BadSettings
from scanfleet.storage.open import open_store

_UPLOAD = re.compile("[0-9a-f]{64}")
SCHEME = "upload:"  # what answers call an upload: its place is the server's own affair


def place_of(settings: Settings) -> str:
    """Return the folder, which is created, or the s3://bucket/prefix. Raises BadSettings."""
    place = settings.serve_uploads_url
    if place is None:
        return os.path.realpath(settings.make_folder("uploads"))
    if place.startswith("s3://"):
        return place.rstrip("/")
    if "://" in place:
        raise BadSettings("serve_uploads_url: give a folder or s3://bucket/prefix")
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise BadSettings(f"serve_uploads_url: there is no folder {folder}: create it where all workers see it")
    return os.path.realpath(folder)


def keep(data: bytes, settings: Settings) -> NewImage:
    """Store an upload, once a day for the same bytes. Raises StoreUnavailable, AccessDenied, BadSettings."""
    place = place_of(settings)
    root = None if place.startswith("s3://") else place
    uri = f"{place}/{datetime.now(UTC):%Y-%m-%d}/{hashlib.sha256(data).hexdigest()}"
    if root is None or not os.path.isfile(uri):  # put again, a file would be another version under its readers
        open_store(uri, settings, root=root).put(uri, data)
    return NewImage(uri=uri, root=root, size=len(data))


def shown(uri: str, settings: Settings) -> str:
    """Return the name of an image for answers: `upload:SHA256` of an upload."""
    place = f"{place_of(settings)}/"
    return f"{SCHEME}{uri.rpartition('/')[2]}" if uri.startswith(place) else uri


def clear_old(settings: Settings) -> int:
    """Delete the uploads of days that are over for longer than `serve_keep_hours`. Returns the number of days.

    Only files that have the name of an upload go, in case people keep something of their own there.
    """
    place = place_of(settings)
    if place.startswith("s3://"):
        return 0
    oldest = (datetime.now(UTC) - timedelta(hours=settings.serve_keep_hours)).date()
    old = [entry for entry in Path(place).iterdir() if _day(entry.name) < oldest and entry.is_dir()]
    for folder in old:
        for file in folder.iterdir():
            if _UPLOAD.fullmatch(file.name):
                file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            folder.rmdir()
    return len(old)


def _day(name: str) -> date:
    try:
        return date.fromisoformat(name)
    except ValueError:
        return date.max
