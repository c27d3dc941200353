"""The files that a worker holds, not yet decoded or needed once more: all its batches together a bounded number of
bytes."""

from __future__ import annotations

import threading

MANY_BYTES = 128 << 20  # no further fetch begins while so many are held or on their way, but for one in each batch
KEPT_BYTES = 64 << 20  # of files that are decoded and may be needed once more


class FilesInHand:
    """From any thread. What is on its way counts as much as a file had on average so far."""

    def __init__(self, *, many: int = MANY_BYTES, most_kept: int = KEPT_BYTES) -> None:
        self._many = many
        self._most_kept = most_kept
        self._kept = 0  # bytes; nobody waits for their end, so they hold up no fetch
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

    def keep(self, n_bytes: int) -> bool:
        """Whether there is room for a file that is decoded already."""
        with self._lock:
            if self._kept + n_bytes > self._most_kept:
                return False
            self._kept += n_bytes
            return True

    def let_go(self, n_bytes: int) -> None:
        """A kept file is not needed any more."""
        with self._lock:
            self._kept -= n_bytes

    @property
    def nothing(self) -> bool:
        with self._lock:
            return not self._held and not self._on_their_way and not self._kept


class KeptFiles:
    """Files of one batch, by SHA-256, that may be needed once more; as many as there is room for. From any thread."""

    def __init__(self, in_hand: FilesInHand) -> None:
        self._in_hand = in_hand
        self._lock = threading.Lock()
        self._files: dict[str, bytes] = {}
        self._open = True

    def keep(self, sha256: str, data: bytes) -> None:
        """Where there is room, and until `close`."""
        with self._lock:
            if self._open and sha256 not in self._files and self._in_hand.keep(len(data)):
                self._files[sha256] = data

    def get(self, sha256: str) -> bytes | None:
        with self._lock:
            return self._files.get(sha256)

    def drop(self, sha256: str) -> None:
        with self._lock:
            self._let_go(sha256)

    def close(self) -> None:
        """Nothing is kept from now on."""
        with self._lock:
            self._open = False
            for sha256 in list(self._files):
                self._let_go(sha256)

    def _let_go(self, sha256: str) -> None:
        data = self._files.pop(sha256, None)
        if data is not None:
            self._in_hand.let_go(len(data))
