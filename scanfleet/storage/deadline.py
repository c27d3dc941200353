"""A total deadline for one download, however slowly its bytes arrive.

A socket's time-out ends silence alone: a server that sends a byte a second, in the body or already in the headers,
would hold a thread for hours. botocore has no setting for that and hands no socket out, so its connections are given a
response class that looks at the deadline of the calling thread before each read. Retries share it: it is the deadline
of the whole call.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.awsrequest import AWSConnection


class Deadline:
    """One download: when it must be over, and how far it came."""

    def __init__(self, *, seconds: float) -> None:
        self._start = time.monotonic()
        self._seconds = seconds
        self.n_bytes = 0  # received, headers included

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._start + self._seconds - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left <= 0

    def __str__(self) -> str:
        spent = time.monotonic() - self._start
        return f"{self.n_bytes} bytes in {spent:.0f} s ({self.n_bytes / max(spent, 0.001):.0f} bytes/s)"


_current = threading.local()


@contextmanager
def within(seconds: float) -> Iterator[Deadline]:
    """Downloads of this thread in here end after `seconds`, in all, with TimeoutError as a silent socket's do."""
    deadline = _current.deadline = Deadline(seconds=seconds)
    try:
        yield deadline
    finally:
        _current.deadline = None


class _PacedReads(io.RawIOBase):
    """The reads of one socket, each no longer than what is left."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._silence = sock.gettimeout()
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline.left
        if left <= 0:
            raise TimeoutError("the deadline of the download is over")
        self._sock.settimeout(left if self._silence is None else min(left, self._silence))
        n = self._raw.readinto(buffer)
        self._deadline.n_bytes += n or 0
        return n

    def close(self) -> None:
        self._raw.close()
        super().close()


class PacedResponse(http.client.HTTPResponse):
    """A response whose reads keep to the deadline of the thread that asked for it."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        deadline = getattr(_current, "pace", None)
        if deadline is not None:
            self.fp.close()
            self.fp = io.BufferedReader(_PacedReads(sock, deadline))


AWSConnection.response_class = PacedResponse
