"""The end of a worker: first it drains, then it hands back the batches that it still holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

import structlog

log = structlog.get_logger()


HAND_BACK_SECONDS = 5.0  # the last part of the drain: to hand back and to end


class Stop:
    """The stop switch of a worker.

    After the first request it claims no new batch, and those under way may finish. After a second request, or near the
    end of the drain, it hands them back and ends.

    drain_seconds: from the first request to the end of the process; the last HAND_BACK_SECONDS of them are for handing
    back. on_overdue: called if the process is still alive after that; it must end the process.

    `request` may be called in a signal handler: it only puts into a reentrant queue, which a thread reads.
    """

    def __init__(self, *, drain_seconds: float, on_overdue: Callable[[], None] = lambda: None) -> None:
        self._drain_seconds = drain_seconds
        self._on_overdue = on_overdue
        self._requests: SimpleQueue[str] = SimpleQueue()
        self._draining = threading.Event()
        self._handing_back = threading.Event()
        self._lock = threading.Lock()
        self._listeners: dict[object, Callable[[], None]] = {}
        self._thread = threading.Thread(target=self._watch, name="stop", daemon=True)
        self._thread.start()

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    @property
    def handing_back(self) -> bool:
        return self._handing_back.is_set()

    def request(self, reason: str) -> None:
        self._requests.put(reason)

    def wait_hand_back(self, seconds: float) -> bool:
        """Sleep. Return True, and early, when the worker must hand everything back."""
        return self._handing_back.wait(seconds)

    def wait_draining(self, seconds: float | None = None) -> bool:
        """Sleep. Return True, and early, when the worker is asked to stop."""
        return self._draining.wait(seconds)

    def listen(self, key: object, call: Callable[[], None]) -> None:
        """Have `call` called when everything must be handed back; at once if that is so already."""
        with self._lock:
            self._listeners[key] = call
            late = self._handing_back.is_set()
        if late:
            call()

    def unlisten(self, key: object) -> None:
        with self._lock:
            self._listeners.pop(key, None)

    def _watch(self) -> None:
        reason = self._requests.get()
        log.info("worker_draining", reason=reason, drain_seconds=self._drain_seconds)
        self._draining.set()
        try:
            reason = self._requests.get(timeout=max(0.0, self._drain_seconds - HAND_BACK_SECONDS))
        except Empty:
            reason = "drain time is over"
        with self._lock:
            self._handing_back.set()
            calls = list(self._listeners.values())
        log.info("worker_handing_back", reason=reason, batches=len(calls))
        for call in calls:
            call()
        time.sleep(HAND_BACK_SECONDS)  # in a daemon thread: a process that ends in time does not wait for it
        self._on_overdue()
