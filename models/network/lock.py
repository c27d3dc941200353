"""A lock between forwards, which run together under one adapter, and changes to the network, which run alone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class SharedLock:
    """Admits either any number of holders of one kind, or one exclusive holder, in the order of the requests.

    A request for the active kind joins it unless another request is waiting, so no kind can starve another. A thread
    that holds the lock must not request it again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._kind: Hashable = None
        self._n_inside = 0

    @contextmanager
    def shared(self, kind: Hashable) -> Iterator[None]:
        """Hold the lock together with other holders of the same kind."""
        with self._taken(("shared", kind)):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._taken(object()):
            yield

    @contextmanager
    def _taken(self, kind: Hashable) -> Iterator[None]:
        request = object()
        with self._changed:
            self._waiting.append(request)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is request and self._admits(kind))
            finally:
                self._waiting.remove(request)
                self._changed.notify_all()
            self._kind = kind
            self._n_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_inside -= 1
                self._changed.notify_all()

    def _admits(self, kind: Hashable) -> bool:
        return not self._n_inside or self._kind == kind
