"""The object stores of a worker, each opened once and shared by its threads."""

from __future__ import annotations

import threading
from typing import Protocol

from scanfleet.objects import ObjectStore, open_store
from scanfleet.settings import Settings


class StoreFinder(Protocol):
    def __call__(self, uri: str, root: str | None) -> ObjectStore:
        """The store that holds a uri. Raises BadSource."""
        ...


class OpenStores:
    """One client for S3, one folder store for each root."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._open: dict[str, ObjectStore] = {}

    def __call__(self, uri: str, root: str | None) -> ObjectStore:
        key = "s3" if uri.startswith("s3://") else f"folder {root}"
        with self._lock:
            store = self._open.get(key)
            if store is None:
                store = self._open[key] = open_store(uri, self._settings, root=root)
            return store
