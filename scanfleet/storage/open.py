"""The object stores of a worker, each opened once and shared by its threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

from scanfleet.config.settings import Settings
from scanfleet.errors import BadSource
from scanfleet.storage.base import ObjectStore
from scanfleet.storage.folder import FolderStore
from scanfleet.storage.shards.store import ShardStore


def open_store(uri: str, settings: Settings, *, root: str | None = None) -> ObjectStore:
    """Return the store of a uri, which reads members of archives, too.

    root: the folder that local files must not leave.
    """
    return ShardStore(_plain_store(uri, settings, root))


def _plain_store(uri: str, settings: Settings, root: str | None) -> ObjectStore:
    if uri.startswith("s3://"):
        from scanfleet.storage.s3.store import S3Store

        return S3Store.connect(settings)
    if uri.startswith("https://"):
        from scanfleet.storage.web.https import HttpsStore

        return HttpsStore(settings)
    if "://" in uri and not uri.startswith("file://"):
        raise BadSource(f"{uri.split('://')[0]}:// is not supported: give a folder, s3://bucket/prefix or a manifest")
    if root is None:
        raise BadSource(f"{uri}: a local file needs the folder that it may be read from")
    return FolderStore(Path(root), deadline_seconds=settings.fetch_deadline_seconds)


class StoreFinder(Protocol):
    def __call__(self, uri: str, root: str | None) -> ObjectStore:
        """Return the store that holds a uri. Raises BadSource."""
        ...


class OpenStores:
    """One client for S3, one for the web, one folder store for each root."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._open: dict[str, ObjectStore] = {}

    def __call__(self, uri: str, root: str | None) -> ObjectStore:
        key = f"folder {root}" if root is not None else uri.partition("://")[0]
        with self._lock:
            store = self._open.get(key)
            if store is None:
                store = self._open[key] = open_store(uri, self._settings, root=root)
            return store
