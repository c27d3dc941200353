"""Where the time of a batch and of a worker goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

STAGES = ("fetch", "decode", "prepare", "wait", "device")  # of a batch; a worker adds "write"


class Stopwatch:
    """Seconds per stage, added up over threads: with eight fetching threads a second holds eight of `fetch`.

    wait: from prepared to the start of the forward, per image. device: the image's share of its forward.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def seconds(self) -> dict[str, float]:
        with self._lock:
            return {stage: round(value, 4) for stage, value in self._seconds.items()}


class Totals:
    """What a worker did since it started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_images = 0
        self._watch = Stopwatch()

    def add(self, *, n_images: int, seconds: Mapping[str, float]) -> None:
        with self._lock:
            self._n_images += n_images
        for stage, value in seconds.items():
            self._watch.add(stage, value)

    def read(self) -> tuple[int, dict[str, float]]:
        with self._lock:
            return self._n_images, self._watch.seconds()
