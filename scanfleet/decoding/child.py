"""The program of a decoder child: turns of one image or several, each within its limits, until its pipe ends.

Started by `scanfleet.decoding.process`. It imports Pillow and as little else as can be: it reads untrusted bytes, so it
has no credentials in its environment, no database and no model, and what it says is checked by the worker.

A limit of memory or of CPU time counts for one image. Linux has both. On macOS the memory limit has no effect (the
kernel accepts RLIMIT_AS and ignores it), on Windows there is neither: the limits of pixels and bytes remain.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from scanfleet.child_process import end_with_parent
from scanfleet.decoding.protocol import COUNT, LENGTH, NONE, READY, TURN, Wanted, cpu_seconds, unpack_turn
from scanfleet.decoding.sending import Shared, fitted, frame, refusal, say, send
from scanfleet.errors import ImageError
from scanfleet.images import Decoded
from scanfleet.images.optional.extras import LIBRARY_BYTES

MAX_STDERR_BYTES = 1 << 16

DECODE_FRAMES = "decode_frames"


class Limits(NamedTuple):
    """The command line of this program, in this order."""

    parent: int  # process id
    max_pixels: int
    cpu_seconds: float  # an image
    memory_bytes: int  # beyond what the program has before the first image
    stretch: bool  # 16-bit samples that hold fewer bits
    decode: (
        str  # module:function(data, max_pixels=..., enough=..., stretch=..., frame=...), with decode_frames beside it
    )
    region: int  # descriptor of the memory for pixels, or NONE


class _Decoders(NamedTuple):
    one: Callable[..., Decoded]
    several: Callable[..., Iterable[Decoded]]

    def decode(self, data: bytes, wanted: Wanted) -> list[Decoded]:
        if wanted.choice is None:
            return [self.one(data, enough=wanted.enough, frame=wanted.frame)]
        # All of them first: a damaged one is the file's failure.
        return list(self.several(data, enough=wanted.enough, frames=wanted.choice))


class _Turn(NamedTuple):
    files: list[bytes]
    wanted: Wanted


def main(arguments: list[str]) -> None:
    parent, max_pixels, cpu, memory_bytes, stretch, name, memory = arguments
    limits = Limits(int(parent), int(max_pixels), float(cpu), int(memory_bytes), stretch == "1", name, int(memory))
    _end_with(limits.parent)
    source, sink = _take_pipes()
    pixels = Shared(limits.region)
    decoders = _load(limits)
    warnings.simplefilter("ignore")  # about damaged files: the outcome says it
    _limit(limits.memory_bytes)
    say(sink, READY)
    while (turn := _next(source)) is not None:
        _answer(sink, pixels, turn, decoders, limits.cpu_seconds)
        del turn


def _end_with(parent: int) -> None:
    """Stopping is the worker's business: this process ends when its pipe does, or when the worker is dead."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    end_with_parent(parent)  # a decoder that hangs never reads the end of its pipe


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes, out of reach of a library that prints."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return open(source, "rb"), open(sink, "wb", buffering=0)


def _load(limits: Limits) -> _Decoders:
    name, _, function = limits.decode.partition(":")
    module = importlib.import_module(name)
    bound = partial(partial, max_pixels=limits.max_pixels, stretch=limits.stretch)
    return _Decoders(bound(getattr(module, function)), bound(getattr(module, DECODE_FRAMES)))


def _limit(memory_bytes: int) -> None:
    """No core dumps, no files beyond a few complaints, and so much memory more than now.

    Beyond it there is room for the libraries of extras alone: scanfleet.images.optional.extras moves the soft limit by
    their size.
    """
    if sys.platform == "win32":
        return
    import resource

    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: MAX_STDERR_BYTES}
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory_bytes
    for which, value in limits.items():
        more = LIBRARY_BYTES if which == resource.RLIMIT_AS else 0
        _, hard = resource.getrlimit(which)
        soft, highest = (n if hard == resource.RLIM_INFINITY else min(n, hard) for n in (value, value + more))
        resource.setrlimit(which, (soft, highest))


@contextlib.contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """CPU time of this process, not time on the wall: neither a busy machine nor SIGSTOP counts.

    SIGPROF keeps its default action, so that it ends even a decoder that never comes back to Python.
    """
    if sys.platform == "win32":
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _next(source: BinaryIO) -> _Turn | None:
    """The files of a turn, and what is wanted of them; None when the worker has closed the pipe, or died."""
    head = source.read(TURN.size)
    if len(head) < TURN.size:
        return None
    n, wanted = unpack_turn(head)
    lengths = source.read(n * LENGTH.size)
    files = [source.read(length) for (length,) in LENGTH.iter_unpack(lengths)]
    if len(files) < n or sum(map(len, files)) < sum(length for (length,) in LENGTH.iter_unpack(lengths)):
        return None
    return _Turn(files, wanted)


def _answer(sink: BinaryIO, pixels: Shared, turn: _Turn, decoders: _Decoders, limit: float) -> None:
    """Answer for the first files, up to one whose pixels have no room in the shared memory, or that took too much."""
    seconds = cpu_seconds(limit, len(turn.files))
    answers, too_large = bytearray(), list[Image.Image]()
    pixels.forget()
    for data in turn.files:
        _forget_complaints()
        with _cpu_limit(seconds):
            if not _add_answer(answers, too_large, pixels, decoders, data, turn.wanted):
                break
    say(sink, bytes(answers))
    for image in too_large:
        send(sink, image)


def _add_answer(
    answers: bytearray,
    too_large: list[Image.Image],
    pixels: Shared,
    decoders: _Decoders,
    data: bytes,
    wanted: Wanted,
) -> bool:
    """Return False if it must be the last one of its turn."""
    try:
        frames = [fitted(decoded, wanted.fit) for decoded in decoders.decode(data, wanted)]
    except ImageError as error:
        answers += refusal(error.reason, error.detail)
        return True
    except MemoryError:
        answers += refusal("too_much_memory", f"more than {len(data)} bytes of file may take")
        return False
    answers += COUNT.pack(len(frames))
    for decoded, image in frames:
        at = pixels.put(image)
        answers += frame(decoded, image, at)
        if at == NONE:
            too_large.append(image)
    return not too_large


def _forget_complaints() -> None:
    """Keep in stderr only what concerns this image, should it be the last."""
    with contextlib.suppress(OSError):  # a terminal, or a pipe
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)


if __name__ == "__main__":
    main(sys.argv[1:])
