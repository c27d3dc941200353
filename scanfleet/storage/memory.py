"""Objects in memory, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from scanfleet.errors import StoreUnavailable
from scanfleet.storage.base import FetchedObject, ObjectInfo, Span, fetch_error


@dataclass
class MemoryStore:
    """A store in a dict."""

    objects: dict[str, bytes] = field(default_factory=dict)
    down: bool = False  # True: every call raises StoreUnavailable

    def list(self, location: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        self._check_up()
        for uri in sorted(self.objects):
            if uri.startswith(location) and (after is None or uri > after):
                yield ObjectInfo(uri=uri, etag=f"{hash(self.objects[uri]):x}", size=len(self.objects[uri]))

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int, span: Span | None = None) -> FetchedObject:
        self._check_up()
        data = self.objects.get(uri)
        if data is None:
            raise fetch_error("gone", "the object no longer exists")
        if etag is not None and etag != f"{hash(data):x}":
            raise fetch_error("changed", "the object changed after it was listed")
        etag, size = f"{hash(data):x}", len(data)
        data = data if span is None else data[span.offset : span.offset + span.length]
        if len(data) > max_bytes:
            raise fetch_error("too_large", f"{len(data)} bytes is over the limit of {max_bytes}")
        return FetchedObject(data, etag, size)

    def confirm_missing(self, uri: str, *, etag: str | None, root_id: str | None) -> None:
        self._check_up()

    def put(self, uri: str, data: bytes) -> None:
        self._check_up()
        self.objects[uri] = data

    def _check_up(self) -> None:
        if self.down:
            raise StoreUnavailable("the memory store is switched off")
