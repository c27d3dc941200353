"""An object of a store as a file that can be searched: only the blocks that are looked at are read."""

from __future__ import annotations

import io
import os

from scanfleet.storage.base import ObjectStore, Span

REMOTE_BLOCK = 1 << 20  # bytes of one request: less costs more round trips than it saves
LOCAL_BLOCK = 1 << 14


class TooMuchAtOnceError(Exception):
    """A header asks for more bytes than any honest one has."""


class RangedFile(io.RawIOBase):
    """Read-only. most_bytes: that are read until `spent` is set back, whatever an archive says of itself.

    size: of the object. etag: of its version; later blocks are of the same one, or `changed` is raised.
    """

    def __init__(self, store: ObjectStore, uri: str, *, etag: str | None, most_bytes: int) -> None:
        self._store = store
        self._uri = uri
        self._most = most_bytes
        self._block = REMOTE_BLOCK if "://" in uri and not uri.startswith("file://") else LOCAL_BLOCK
        first = store.fetch(uri, etag=etag, max_bytes=self._block, span=Span(0, self._block))
        assert first.size is not None  # of a part, stores tell the whole
        self.etag = first.etag
        self.size = first.size
        self._data, self._start, self._at = first.data, 0, 0
        self.spent = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size - self._at)
        n = left if size is None or size < 0 else min(size, left)
        self.spent += n
        if self.spent > self._most:
            raise TooMuchAtOnceError(f"a header of {self.spent} bytes or more")
        begin = self._at - self._start
        if n and not 0 <= begin <= len(self._data) - n:
            length = min(max(n, self._block), left)
            found = self._store.fetch(self._uri, etag=self.etag, max_bytes=length, span=Span(self._at, length))
            self._data, self._start, begin = found.data, self._at, 0
        data = self._data[begin : begin + n]
        self._at += len(data)
        return data
