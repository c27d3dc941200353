"""Adapters in the memory of a base model: taken out when nothing is left that could run them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import structlog

from worker.scoring.model import Model

log = structlog.get_logger()


class AdapterCache:
    """Knows of every scorer and finder that was made with an adapter whether anybody still holds it.

    A batch under way holds its own, whatever is in use by now, so an adapter is never released under one.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()  # of both
        self._users: dict[str, WeakSet[object]] = {}  # by digest
        self._turns: dict[str, threading.Lock] = defaultdict(threading.Lock)  # to load or to release, by digest

    @contextmanager
    def loading(self, digest: str) -> Iterator[WeakSet[object]]:
        """One at a time for each adapter. What is made with it in here goes into the set. "": the base alone."""
        with self._turn(digest):
            with self._lock:
                users = self._users.setdefault(digest, WeakSet())
            yield users

    def release_unused(self) -> None:
        """Those that a load under way may still want are left for the next time."""
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
        """Unless it was loaded again since."""
        with self._lock:
            if self._users.get(digest):
                return
            self._users.pop(digest, None)
        self._model.release(digest)
        log.info("adapter_released", weights=digest[:12])
