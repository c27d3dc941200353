"""Lets a suspect batch have the whole process to itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.batch import Aborted


class Gate:
    """Many may be inside together, or one alone. Who waits to be alone goes before those who come after it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._waiting_alone = 0

    def wake(self) -> None:
        """Have those who wait ask again whether they still want to."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def together(self, *, given_up: Callable[[], bool]) -> Iterator[None]:
        """Raises Aborted when `given_up` becomes true (and `wake` is called) before there is room."""
        with self._changed:
            self._changed.wait_for(lambda: given_up() or not (self._alone or self._waiting_alone))
            if given_up():
                raise Aborted("not wanted any more")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, *, given_up: Callable[[], bool]) -> Iterator[None]:
        """Raises Aborted as `together` does."""
        with self._changed:
            self._waiting_alone += 1
            try:
                self._changed.wait_for(lambda: given_up() or not (self._alone or self._inside))
                if given_up():
                    raise Aborted("not wanted any more")
                self._alone = True
            finally:
                self._waiting_alone -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
