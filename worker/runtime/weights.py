"""Weights in a bucket (`--model s3://bucket/prefix`): one copy a node, complete or not there at all.

Processes of a node take turns by a file lock, so that one of them downloads and the others wait for it. Each version of
the prefix has a folder of its own, named by the ETags and sizes of its listing; it gets its name once all of its bytes
are on the disk. A prefix that is overwritten meanwhile fails, since each part is asked for by its ETag.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import structlog

from scanfleet.config.settings import Settings
from scanfleet.errors import AccessDenied, BadSettings, BadSource, ImageError, SourceNotFound, StoreUnavailable
from scanfleet.storage.base import ObjectInfo, ObjectStore, Span
from scanfleet.storage.open import open_store

PREFIX = "s3://"
PART_BYTES = 64 << 20  # of one request
MAX_FILES = 1000
PARTIAL = ".part"

log = structlog.get_logger()


def in_bucket(model: str) -> bool:
    return model.startswith(PREFIX)


def fetch_weights(settings: Settings) -> Path:
    """Return the folder with the files of `settings.model`, and download them where this node has none.

    Raises BadSettings (no such prefix, no access, no model there), StoreUnavailable.
    """
    uri = settings.model.rstrip("/")
    place = settings.make_folder("weights") / hashlib.sha256(uri.encode()).hexdigest()[:16]
    store = open_store(uri, settings)
    try:
        listed = _listed(store, uri)
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place / "lock"):
            return _complete(store, listed, uri, place)
    except (SourceNotFound, AccessDenied, BadSource) as error:
        raise BadSettings(f"model: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"cannot keep the weights of {uri} in {place}: {error.strerror}") from error


def _listed(store: ObjectStore, uri: str) -> dict[str, ObjectInfo]:
    """Return the objects below the prefix by their names. Raises BadSource, SourceNotFound."""
    found = {info.uri.removeprefix(f"{uri}/"): info for info in store.list(f"{uri}/")}
    files = {name: info for name, info in found.items() if name and not name.endswith("/")}
    if "config.json" not in files:
        raise BadSource(f"{uri} holds no model, because config.json is missing")
    if len(files) > MAX_FILES:
        raise BadSource(f"{uri} holds more than {MAX_FILES} files: give the prefix of one model")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
            raise BadSource(f"{uri}/{name}: a file name that leads out of the model's folder")
    return files


def _complete(store: ObjectStore, listed: dict[str, ObjectInfo], uri: str, place: Path) -> Path:
    version = "\n".join(f"{name} {info.etag} {info.size}" for name, info in sorted(listed.items()))
    folder = place / hashlib.sha256(version.encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    filling = folder.with_suffix(PARTIAL)
    shutil.rmtree(filling, ignore_errors=True)  # of a process that was killed: nobody else holds the lock
    log.info("weights_downloading", model=uri, bytes=sum(info.size or 0 for info in listed.values()))
    for name, info in sorted(listed.items()):
        target = filling / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(store, info, target)
    for other in place.iterdir():  # versions before this one: no process that starts from now on reads them
        if other.is_dir() and other != filling:
            shutil.rmtree(other, ignore_errors=True)
    filling.rename(folder)
    return folder


def _download(store: ObjectStore, info: ObjectInfo, target: Path) -> None:
    size = info.size or 0
    try:
        with target.open("wb") as stream:
            for offset in range(0, size, PART_BYTES):
                span = Span(offset, min(PART_BYTES, size - offset))
                part = store.fetch(info.uri, etag=info.etag, max_bytes=PART_BYTES, span=span)
                if len(part.data) != span.length:
                    raise StoreUnavailable(f"{info.uri}: {len(part.data)} bytes came for {span.length}")
                stream.write(part.data)
            stream.flush()
            os.fsync(stream.fileno())
    except ImageError as error:  # the store's error for a single object: overwritten, or gone since the listing
        raise StoreUnavailable(f"{info.uri}: {error.reason}: {error.detail}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, which ends with the process."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
