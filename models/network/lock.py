"""Who may use a network now: many forwards of one adapter at once, or one thread that changes what is loaded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class SharedLock:
    """In the order of asking. Whoever asks for the kind that has its turn joins it, unless somebody waits already: no
    kind can keep another one out. A thread that has a turn must not ask for a second one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._kind: Hashable = None
        self._n_inside = 0

    @contextmanager
    def shared(self, kind: Hashable) -> Iterator[None]:
        """Together with others of the same kind."""
        with self._taken(("shared", kind)):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Together with nobody."""
        with self._taken(object()):
            yield

    @contextmanager
    def _taken(self, kind: Hashable) -> Iterator[None]:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._admits(kind))
            finally:
                self._waiting.remove(ticket)
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
