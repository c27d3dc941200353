"""Adapters in the memory of a base model: released when no scorer and no finder uses them any more."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import structlog

from scanfleet.worker.scoring.model import Model

log = structlog.get_logger()


class AdapterCache:
    """Tracks which adapters have scorers or finders that are still referenced.

    A batch under way references its own, whichever adapter is the champion by then, so its adapter is not released.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()  # of both dictionaries
        self._users: dict[str, WeakSet[object]] = {}  # by digest
        self._turns: dict[str, threading.Lock] = defaultdict(
            threading.Lock
        )  # held while loading or releasing, by digest

    @contextmanager
    def loading(self, digest: str) -> Iterator[WeakSet[object]]:
        """Lock one adapter ("": the base alone), and yield the set to which the caller adds what it makes with it."""
        with self._turn(digest):
            with self._lock:
                users = self._users.setdefault(digest, WeakSet())
            yield users

    def release_unused(self) -> None:
        """Release adapters without users. One that is being loaded is left for the next time."""
        with self._lock:
            unused = [digest for digest, users in self._users.items() if digest and not users]
        for digest in unused:
            turn = self._turn(digest)
            if turn.acquire(blocking=False):
                try:
                    self._release(digest)
                finally:
                    turn.release()

    def _turn(self, digest: str) -> threading.Lock:
        with self._lock:
            return self._turns[digest]

    def _release(self, digest: str) -> None:
        """Release one adapter unless it was loaded again in the meantime."""
        with self._lock:
            if self._users.get(digest):
                return
            self._users.pop(digest, None)
        self._model.release(digest)
        log.info("adapter_released", weights=digest[:12])
