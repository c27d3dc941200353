"""Measures the images/s of each stage of a worker alone, on synthetic pictures."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from scanfleet.config.settings import Settings
from scanfleet.decoding.pool import Decoders
from scanfleet.images import Decoded, Enough
from scanfleet.models.types import Scorer
from scanfleet.worker.device.synthetic import jpeg

WIDTH, HEIGHT = 1280, 960  # pixels of a typical picture in an archive
PICTURES = 4  # different ones

Clock = Callable[[], float]


class StageRates:
    """Call `decode`, `prepare` and `device` one after the other: each needs the machine to itself."""

    def __init__(self, settings: Settings, scorer: Scorer, *, seconds: float, clock: Clock = time.perf_counter) -> None:
        self._settings = settings
        self._scorer = scorer
        self._seconds = seconds
        self._clock = clock
        self._files = [jpeg(WIDTH, HEIGHT, seed=seed) for seed in range(PICTURES)]
        detail = scorer.detail
        self._enough = None if detail is None else Enough(detail.pixels, detail.short_side)
        self._decoded: list[Decoded] = []

    def decode(self) -> float:
        """Measure decoding, with as many child processes as a worker has. Raises DecodersUnavailable."""
        decoders = Decoders(self._settings)
        try:
            self._decoded = [decoders.decode(data, enough=self._enough) for data in self._files]
            work = [partial(decoders.decode, data, enough=self._enough) for data in self._files]
            return self._in_threads(work)
        finally:
            decoders.close()

    def prepare(self) -> float:
        """Measure preparing, in as many threads as a worker has. Call after `decode`."""
        return self._in_threads([partial(self._scorer.prepare, decoded.image) for decoded in self._decoded])

    def device(self, *, token_budget: int, streams: int) -> float:
        """Measure forwards of as many images as fit into the budget, one in each stream. Call after `decode`."""
        prepared = [self._scorer.prepare(decoded.image) for decoded in self._decoded]
        n = max(1, token_budget // max(image.visual_tokens for image in prepared))
        pack = [prepared[at % PICTURES] for at in range(n)]
        work = [partial(self._scorer.score, pack)]
        return n * per_second(work, threads=streams, seconds=self._seconds, clock=self._clock)

    def _in_threads(self, work: Sequence[Callable[[], object]]) -> float:
        threads = self._settings.fetch_threads
        return per_second(work, threads=threads, seconds=self._seconds, clock=self._clock)


def per_second(work: Sequence[Callable[[], object]], *, threads: int, seconds: float, clock: Clock) -> float:
    """Return how many of these calls, made in turn by `threads` threads, end in a second. Raises the error of a call.

    The first call of each thread is not counted: it initialises what the later ones use.
    """
    turns = itertools.cycle(work)
    lock = threading.Lock()
    warm = threading.Barrier(threads)

    def one() -> tuple[int, float, float]:
        with lock:
            first = next(turns)
        try:
            first()
        except BaseException:
            warm.abort()
            raise
        warm.wait()
        start, n = clock(), 0
        while n == 0 or clock() - start < seconds:
            with lock:
                call = next(turns)
            call()
            n += 1
        return n, start, clock()

    with ThreadPoolExecutor(threads) as pool:
        done = _results([pool.submit(one) for _ in range(threads)])
    begun, ended = min(start for _, start, _ in done), max(end for _, _, end in done)
    return sum(n for n, _, _ in done) / max(ended - begun, 1e-9)


def _results(futures: Sequence[Future[tuple[int, float, float]]]) -> list[tuple[int, float, float]]:
    """Return the results. Raise the original error, not those of the threads that it stopped."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    original = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (original or errors)[0]
    return [future.result() for future in futures]
