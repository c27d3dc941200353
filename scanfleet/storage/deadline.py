"""A deadline for one download, checked between two reads, and a cap on its bytes.

A read that never returns is ended by the socket timeout.
"""

from __future__ import annotations

import time
from typing import Any

from scanfleet.errors import StoreUnavailable
from scanfleet.storage.base import CHUNK_BYTES, fetch_error


class Deadline:
    """When the download of one object must be over. store: what to name in the error."""

    def __init__(self, seconds: float, *, store: str) -> None:
        self._start = time.monotonic()
        self._seconds = seconds
        self._store = store

    def check(self, n_bytes: int) -> None:
        """Raises StoreUnavailable, with the speed, once the time is over. n_bytes: received so far."""
        spent = time.monotonic() - self._start
        if spent > self._seconds:
            speed = f"{n_bytes} bytes in {spent:.0f} s ({n_bytes / spent:.0f} bytes/s)"
            raise StoreUnavailable(f"{self._store} is too slow: {speed} (fetch_deadline_seconds)")


def read_capped(response: Any, deadline: Deadline, *, length: int | None, max_bytes: int) -> bytes:
    """Read a body of urllib3's in time. length: as announced; None: it ends with its last chunk.

    Raises ImageError (too_large), StoreUnavailable.
    """
    if length is not None and length > max_bytes:
        raise fetch_error("too_large", f"{length} bytes is over the limit of {max_bytes}")
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES):  # only read1 returns before a whole chunk has arrived
        data += chunk
        deadline.check(len(data))
        if len(data) > max_bytes:
            raise fetch_error("too_large", f"more than {max_bytes} bytes")
    if length is not None and len(data) != length:
        raise StoreUnavailable(f"the store sent {len(data)} of {length} bytes")
    return bytes(data)
