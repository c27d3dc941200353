"""A deadline for one download, checked between two reads. A read that never returns is ended by the socket timeout."""

from __future__ import annotations

import time

from scanfleet.errors import StoreUnavailable


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
