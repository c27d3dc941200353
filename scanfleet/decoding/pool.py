"""Decoding in child processes: an image that crashes, burns or hogs its decoder costs that process, not this one.

Written here because the pools at hand (concurrent.futures, billiard, loky) read pickles from the child, and a process
that is broken by an image must not choose what the worker executes; the first also takes the neighbours along.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

import structlog

from scanfleet.checks.frames import FrameSettings
from scanfleet.config.settings import Settings
from scanfleet.decoding.process import ChildDied, ChildSettings, DecoderProcess
from scanfleet.errors import DecodersUnavailable, ImageError
from scanfleet.images import Decoded, Enough

log = structlog.get_logger()

MAX_DEATHS = 3  # of children with the same image in hand
STILL_SECONDS = 30.0  # an image in hand and no CPU time burnt for so long: it hangs
CHECK_SECONDS = 1.0
IMAGES_A_CHILD = 10_000  # then a fresh one takes its place: damaged files make decoders leak
CLOSE_SECONDS = 5.0
MEASURES_CPU = sys.platform == "linux"  # of another process, through /proc

BYTES_A_PIXEL = 32  # 16-bit transparent pictures that must be turned hold four layers of four bytes, and some room
BYTES_A_FILE_BYTE = 3
SPARE_BYTES = 128 << 20


def memory_bytes(settings: Settings) -> int:
    """Return the memory that the largest allowed picture may take in a child, beyond the program itself."""
    pixels = BYTES_A_PIXEL * settings.max_image_pixels
    return SPARE_BYTES + pixels + BYTES_A_FILE_BYTE * settings.max_image_bytes


def default_children(settings: Settings) -> int:
    """Decoding is all computing: more processes than cores win nothing."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(settings.fetch_threads, cores)


class Decoders:
    """`decode` may be called from many threads: each call borrows a child, which has one image at a time.

    Children start when they are needed. `decode` is the import path of what they call (module:function).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        n_children: int | None = None,
        decode: str = "scanfleet.images.decoding:decode",
        memory: int | None = None,
        still_seconds: float = STILL_SECONDS,
    ) -> None:
        self._child = ChildSettings(
            max_pixels=settings.max_image_pixels,
            cpu_seconds=settings.decode_cpu_seconds,
            memory_bytes=memory_bytes(settings) if memory is None else memory,
            stretch=settings.stretch_samples,
            decode=decode,
        )
        self._seats = _Seats(n_children or default_children(settings))
        if not MEASURES_CPU:
            still_seconds = max(still_seconds, 10 * settings.decode_cpu_seconds)  # of any time then
        self._max_still = math.ceil(still_seconds / CHECK_SECONDS)
        self._lock = threading.Lock()
        self._idle: list[DecoderProcess] = []
        self._all: set[DecoderProcess] = set()
        # On Linux a child ends with the thread that started it: this one lives as long as the pool.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")
        self._stopped = threading.Event()
        self._checks = threading.Thread(target=self._check_children, name="decoder-checks", daemon=True)
        self._checks.start()

    def decode(self, data: bytes, *, enough: Enough | None = None, frame: int = 0) -> Decoded:
        """Call scanfleet.images.decoding.decode in a child. Raises what decode_frames does."""
        return self._decode(data, enough=enough, frame=frame)[0]

    def decode_frames(self, data: bytes, *, frames: FrameSettings, enough: Enough | None = None) -> list[Decoded]:
        """Call scanfleet.images.decoding.decode_frames in a child. Returns at least one frame.

        Raises ImageError (stage decode; beside those of scanfleet.images: too_slow, too_much_memory, kills_the_decoder)
        and DecodersUnavailable.
        """
        return self._decode(data, enough=enough, choice=frames.choice())

    def _decode(self, data: bytes, **request: Any) -> list[Decoded]:
        deaths: list[ChildDied] = []
        while len(deaths) < MAX_DEATHS:
            # The last try is alone: what its neighbours take cannot be what kills it.
            with self._seats.taken(alone=len(deaths) == MAX_DEATHS - 1):
                try:
                    return self._once(data, request, fresh=bool(deaths))
                except ChildDied as died:
                    self._mourn(died, data, deaths)
        hows = ", ".join(died.how for died in deaths)
        raise ImageError(stage="decode", reason="kills_the_decoder", detail=f"{MAX_DEATHS} processes ended: {hows}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all children. Threads that wait for one get DecodersUnavailable."""
        self._seats.close()
        with self._lock:
            children = set(self._all)
        for child in children:
            child.kill()
        self._stopped.set()
        self._checks.join(CLOSE_SECONDS)
        self._seats.wait_empty(CLOSE_SECONDS)
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            self._retire(child)
        self._starter.shutdown(wait=False, cancel_futures=True)

    @property
    def pids(self) -> list[int]:
        """Process ids of the live children."""
        with self._lock:
            return [child.pid for child in self._all]

    def _once(self, data: bytes, request: dict[str, Any], *, fresh: bool) -> list[Decoded]:
        child = self._start() if fresh else self._borrow()
        try:
            decoded = child.decode(data, **request)
        except ImageError as error:
            if error.reason != "too_much_memory":
                self._put_back(child)
                raise
            # An earlier image may have left it with little: only the result of a fresh child counts.
            self._retire(child)
            if child.n_images == 1:
                raise
            return self._once(data, request, fresh=True)
        except BaseException:
            self._retire(child)
            raise
        self._put_back(child)
        return decoded

    def _mourn(self, died: ChildDied, data: bytes, deaths: list[ChildDied]) -> None:
        """Raises ImageError, DecodersUnavailable, or adds to `deaths`."""
        if self._seats.closed:
            raise DecodersUnavailable("this process is stopping") from None
        if died.too_slow:
            seconds = self._child.cpu_seconds
            raise ImageError(stage="decode", reason="too_slow", detail=f"over {seconds:g} s of CPU time") from None
        deaths.append(died)
        sha256 = hashlib.sha256(data).hexdigest()
        log.warning(
            "decoder_died",
            cause=died.how,
            deaths=len(deaths),
            sha256=sha256,
            n_bytes=len(data),
            stderr_tail=died.said,
        )

    def _borrow(self) -> DecoderProcess:
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                return self._start()
            if child.alive:
                return child
            log.warning("idle_decoder_died", pid=child.pid)  # no image is at fault
            self._retire(child)

    def _start(self) -> DecoderProcess:
        try:
            child = self._starter.submit(DecoderProcess, self._child).result()
        except OSError as error:
            raise DecodersUnavailable(f"cannot start a decoder process: {error.strerror or error}") from None
        except RuntimeError:  # the starter was shut down
            raise DecodersUnavailable("this process is stopping") from None
        with self._lock:
            self._all.add(child)
        if self._seats.closed:
            child.kill()  # `close` has not seen it
        try:
            child.wait_ready()
        except ChildDied as died:
            self._retire(child)
            if self._seats.closed:
                raise DecodersUnavailable("this process is stopping") from None
            log.warning("decoder_start_failed", cause=died.how, stderr_tail=died.said)
            why = (died.said.splitlines() or ["it said nothing"])[-1]
            raise DecodersUnavailable(f"a decoder process did not start ({died.how}): {why}") from None
        return child

    def _put_back(self, child: DecoderProcess) -> None:
        if child.n_images >= IMAGES_A_CHILD:
            self._retire(child)
            return
        with self._lock:
            self._idle.append(child)

    def _retire(self, child: DecoderProcess) -> None:
        child.end()
        with self._lock:
            self._all.discard(child)

    def _check_children(self) -> None:
        while not self._stopped.wait(CHECK_SECONDS):
            with self._lock:
                children = list(self._all)
            for child in children:
                child.check(max_still=self._max_still)


class _Seats:
    """How many children may work at once; one thread at a time may ask to be alone."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._taken = 0
        self._reserved = False
        self._changed = threading.Condition()
        self.closed = False

    @contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        """Raises DecodersUnavailable once closed."""
        with self._changed:
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

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def wait_empty(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken, seconds)
