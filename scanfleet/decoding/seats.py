"""How many decoders work at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from scanfleet.errors import DecodersUnavailable


class Seats:
    """How many children may work at once; one thread at a time may ask to be alone."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._lacked = False
        self._taken = 0
        self._reserved = False
        self._changed = threading.Condition()
        self.closed = False

    @contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        """Raises DecodersUnavailable once closed."""
        with self._changed:
            self._lacked = self._lacked or self._taken >= self._n
            self._changed.wait_for(lambda: self.closed or (not self._reserved and (alone or self._taken < self._n)))
            if alone and not self.closed:
                self._reserved = True
                self._changed.wait_for(lambda: self.closed or not self._taken)
            if self.closed:
                raise DecodersUnavailable("this process is stopping")
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._reserved = self._reserved and not alone
                self._changed.notify_all()

    @property
    def n(self) -> int:
        return self._n

    def allow(self, n: int) -> None:
        """Change how many work at once. Those that work go on."""
        with self._changed:
            self._n = n
            self._changed.notify_all()

    def take_lack(self) -> bool:
        """Return whether a thread found none free since the last call."""
        with self._changed:
            lacked, self._lacked = self._lacked, False
            return lacked

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def wait_empty(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken, seconds)
