"""Decoding in child processes: an image that crashes, burns or hogs its decoder costs that process, not this one.

Written here because the pools at hand (concurrent.futures, billiard, loky) read pickles from the child, and a process
that is broken by an image must not choose what the worker executes; the first also takes the neighbours along.
"""

from __future__ import annotations

import hashlib
import math
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, cast

import structlog

from scanfleet.checks.frames import FrameSettings
from scanfleet.config.settings import Settings
from scanfleet.decoding.amounts import default_children, memory_bytes, next_turn
from scanfleet.decoding.answers import Answer
from scanfleet.decoding.process import ChildDied, DecoderProcess
from scanfleet.decoding.protocol import Wanted
from scanfleet.decoding.seats import Seats
from scanfleet.decoding.spawning import ChildSettings
from scanfleet.errors import DecodersUnavailable, ImageError
from scanfleet.images import Decoded, Enough
from scanfleet.images.fit import Fit
from scanfleet.images.types import failure

log = structlog.get_logger()

MAX_DEATHS = 3  # of children with the same image in hand
STILL_SECONDS = 30.0  # an image in hand and no CPU time burnt for so long: it hangs
CHECK_SECONDS = 1.0
IDLE_SECONDS = 60.0  # a child without an image for so long ends
IMAGES_A_CHILD = 10_000  # then a fresh one takes its place: damaged files make decoders leak
CLOSE_SECONDS = 5.0
MEASURES_CPU = sys.platform == "linux"  # of another process, through /proc


class Decoders:
    """May be called from many threads: each call borrows a child, which has one turn at a time.

    Children start when they are needed, as far as `seats` allow, and end when they were not for long. `decode` is the
    import path of what they call (module:function).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        n_children: int | None = None,
        decode: str = "scanfleet.images.decoding:decode",
        memory: int | None = None,
        still_seconds: float = STILL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._child = ChildSettings(
            max_pixels=settings.max_image_pixels,
            cpu_seconds=settings.decode_cpu_seconds,
            memory_bytes=memory_bytes(settings) if memory is None else memory,
            stretch=settings.stretch_samples,
            decode=decode,
        )
        self.most_children = n_children or default_children(settings)
        self.seats = Seats(self.most_children)
        if not MEASURES_CPU:
            still_seconds = max(still_seconds, 10 * settings.decode_cpu_seconds)  # of any time then
        self._max_still = math.ceil(still_seconds / CHECK_SECONDS)
        self._max_idle = math.ceil(idle_seconds / CHECK_SECONDS)
        self._lock = threading.Lock()
        self._idle: list[DecoderProcess] = []  # that was used last, last
        self._all: set[DecoderProcess] = set()
        # On Linux a child ends with the thread that started it: this one lives as long as the pool.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")
        self._stopped = threading.Event()
        self._checks = threading.Thread(target=self._check_children, name="decoder-checks", daemon=True)
        self._checks.start()

    def decode(self, data: bytes, *, enough: Enough | None = None, frame: int = 0) -> Decoded:
        """Call scanfleet.images.decoding.decode in a child. Raises what decode_frames does."""
        return self._pictures(data, Wanted(enough=enough, frame=frame))[0]

    def decode_frames(self, data: bytes, *, frames: FrameSettings, enough: Enough | None = None) -> list[Decoded]:
        """Call scanfleet.images.decoding.decode_frames in a child. Returns at least one frame.

        Raises ImageError (stage decode; beside those of scanfleet.images: too_slow, too_much_memory, kills_the_decoder)
        and DecodersUnavailable.
        """
        return self._pictures(data, Wanted(enough=enough, choice=frames.choice()))

    def decode_all(
        self, files: Sequence[bytes], *, frames: FrameSettings, enough: Enough | None = None, fit: Fit | None = None
    ) -> list[Answer]:
        """Return what decode_frames does of each file, or the ImageError that it raises; several in a turn of a child.

        fit: frames come at this size, apart from those that have none. Raises DecodersUnavailable.
        """
        wanted = Wanted(enough=enough, choice=frames.choice(), fit=fit)
        answers: list[Answer] = []
        while len(answers) < len(files):
            turn = next_turn(files[len(answers) :], wanted)
            answers += self._shared(turn, wanted) if len(turn) > 1 else [self._alone(turn[0], wanted)]
        return answers

    def _pictures(self, data: bytes, wanted: Wanted) -> list[Decoded]:
        answer = self._alone(data, wanted)
        if isinstance(answer, ImageError):
            raise answer
        return cast("list[Decoded]", answer)

    def _shared(self, files: Sequence[bytes], wanted: Wanted) -> list[Answer]:
        """Return the answers for the first files of a turn.

        No file is blamed for what happens to a child that has several: each of them is decoded again then, alone.
        """
        with self.seats.taken(alone=False):
            child = self._borrow()
            try:
                answers = child.decode(files, wanted)
            except ChildDied as died:
                self._retire(child)
                self._require_open()
                log.info("decoder_turn_died", cause=died.how, images=len(files), stderr_tail=died.said)
                answers = []
            except BaseException:
                self._retire(child)
                raise
            else:
                self._put_back(child)
        if not answers:
            return [self._alone(data, wanted) for data in files]
        if _lacked_memory(answers[-1]):
            answers[-1] = self._alone(files[len(answers) - 1], wanted)
        return answers

    def _alone(self, data: bytes, wanted: Wanted) -> Answer:
        deaths: list[ChildDied] = []
        while len(deaths) < MAX_DEATHS:
            # The last try is alone: what its neighbours take cannot be what kills it.
            with self.seats.taken(alone=len(deaths) == MAX_DEATHS - 1):
                try:
                    return self._once(data, wanted, fresh=bool(deaths))
                except ChildDied as died:
                    self._require_open()
                    if died.too_slow:
                        return failure("too_slow", f"over {self._child.cpu_seconds:g} s of CPU time")
                    deaths.append(died)
                    _mourn(died, data, n=len(deaths))
        hows = ", ".join(died.how for died in deaths)
        return failure("kills_the_decoder", f"{MAX_DEATHS} processes ended: {hows}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all children. Threads that wait for one get DecodersUnavailable."""
        self.seats.close()
        with self._lock:
            children = set(self._all)
        for child in children:
            child.kill()
        self._stopped.set()
        self._checks.join(CLOSE_SECONDS)
        self.seats.wait_empty(CLOSE_SECONDS)
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

    def _once(self, data: bytes, wanted: Wanted, *, fresh: bool) -> Answer:
        """Raises ChildDied, DecodersUnavailable."""
        child = self._start() if fresh else self._borrow()
        try:
            (answer,) = child.decode([data], wanted)
        except BaseException:
            self._retire(child)
            raise
        if not _lacked_memory(answer):
            self._put_back(child)
            return answer
        # An earlier image may have left it with little: only the result of a fresh child counts.
        self._retire(child)
        return answer if child.n_images == 1 else self._once(data, wanted, fresh=True)

    def _require_open(self) -> None:
        if self.seats.closed:
            raise DecodersUnavailable("this process is stopping") from None

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
        if self.seats.closed:
            child.kill()  # `close` has not seen it
        try:
            child.wait_ready()
        except ChildDied as died:
            self._retire(child)
            if self.seats.closed:
                raise DecodersUnavailable("this process is stopping") from None
            log.warning("decoder_start_failed", cause=died.how, stderr_tail=died.said)
            why = (died.said.splitlines() or ["it said nothing"])[-1]
            raise DecodersUnavailable(f"a decoder process did not start ({died.how}): {why}") from None
        return child

    def _put_back(self, child: DecoderProcess) -> None:
        if child.n_images >= IMAGES_A_CHILD:
            self._retire(child)
            return
        child.n_idle = 0
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
            for child in self._surplus():
                self._retire(child)

    def _surplus(self) -> list[DecoderProcess]:
        """Take out the children that nobody has needed for long, apart from the one that was used last."""
        with self._lock:
            for child in self._idle[:-1]:
                child.n_idle += 1
            surplus = [child for child in self._idle[:-1] if child.n_idle > self._max_idle]
            self._idle = [child for child in self._idle if child not in surplus]
            return surplus


def _lacked_memory(answer: Answer) -> bool:
    return isinstance(answer, ImageError) and answer.reason == "too_much_memory"


def _mourn(died: ChildDied, data: bytes, *, n: int) -> None:
    log.warning(
        "decoder_died",
        cause=died.how,
        deaths=n,
        sha256=hashlib.sha256(data).hexdigest(),
        n_bytes=len(data),
        stderr_tail=died.said,
    )
