"""The files that a worker has fetched and not yet decoded: all its batches together hold a bounded number of bytes."""

from __future__ import annotations

import threading

MANY_BYTES = 128 << 20  # no further fetch begins while so many are held or on their way, but for one in each batch


class FilesInHand:
    """From any thread. What is on its way counts as much as a file had on average so far."""

    def __init__(self, *, many: int = MANY_BYTES) -> None:
        self._many = many
        self._lock = threading.Lock()
        self._held = 0  # bytes
        self._on_their_way = 0  # files
        self._n_taken = 0  # files, ever
        self._bytes_taken = 0

    @property
    def many(self) -> bool:
        """Whether fetching should wait for decoding."""
        with self._lock:
            average = self._bytes_taken / max(1, self._n_taken)
            return self._held + self._on_their_way * average >= self._many

    def begin(self) -> None:
        """A file is to be fetched."""
        with self._lock:
            self._on_their_way += 1

    def give_up(self, n_files: int = 1) -> None:
        """Files that were to be fetched do not come, or nobody waits for them any more."""
        with self._lock:
            self._on_their_way -= n_files

    def take(self, n_bytes: int) -> None:
        """A file came."""
        with self._lock:
            self._on_their_way -= 1
            self._held += n_bytes
            self._n_taken += 1
            self._bytes_taken += n_bytes

    def drop(self, n_bytes: int) -> None:
        """A file is decoded, or not wanted any more."""
        with self._lock:
            self._held -= n_bytes

    @property
    def nothing(self) -> bool:
        with self._lock:
            return not self._held and not self._on_their_way
