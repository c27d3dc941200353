"""The program of a decoder child: one image after the other, each within its limits, until its pipe ends.

Started by `scanfleet.decoding.process`. It imports Pillow and as little else as can be: it reads untrusted bytes, so it
has no credentials in its environment, no database and no model, and what it says is checked by the worker.

A limit of memory or of CPU time counts for one image. Linux has both. On macOS the memory limit has no effect (the
kernel accepts RLIMIT_AS and ignores it), on Windows there is neither: the limits of pixels and bytes remain.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from scanfleet.child_process import end_with_parent
from scanfleet.decoding.protocol import LENGTH, MAX_DETAIL_CHARS, REQUEST, strips
from scanfleet.errors import ImageError
from scanfleet.images import Decoded, Enough
from scanfleet.images.optional.extras import LIBRARY_BYTES
from scanfleet.images.types import PICKS, FrameChoice

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


class _Request(NamedTuple):
    data: bytes
    enough: Enough | None
    frame: int
    choice: FrameChoice | None  # of several frames


def main(arguments: list[str]) -> None:
    parent, max_pixels, cpu_seconds, memory_bytes, stretch, name = arguments
    limits = Limits(int(parent), int(max_pixels), float(cpu_seconds), int(memory_bytes), stretch == "1", name)
    _end_with(limits.parent)
    source, sink = _take_pipes()
    decode, decode_frames = _load(limits)
    warnings.simplefilter("ignore")  # about damaged files: the outcome says it
    _limit(limits.memory_bytes)
    _say(sink, {"ready": True})
    while (request := _next(source)) is not None:
        _forget_complaints()
        with _cpu_limit(limits.cpu_seconds):
            _answer(sink, decode, decode_frames, request)
        del request


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


def _load(limits: Limits) -> tuple[Callable[..., Decoded], Callable[..., Iterable[Decoded]]]:
    name, _, function = limits.decode.partition(":")
    module = importlib.import_module(name)
    bound = partial(partial, max_pixels=limits.max_pixels, stretch=limits.stretch)
    return bound(getattr(module, function)), bound(getattr(module, DECODE_FRAMES))


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


def _next(source: BinaryIO) -> _Request | None:
    """One file, and what is wanted of it; None when the worker has closed the pipe, or died."""
    head = source.read(REQUEST.size)
    if len(head) < REQUEST.size:
        return None
    length, pixels, short_side, frame, most, pick = REQUEST.unpack(head)
    data = source.read(length)
    if len(data) < length:
        return None
    enough = Enough(pixels, short_side) if pixels else None
    return _Request(data, enough, frame, FrameChoice(most, PICKS[pick]) if most else None)


def _answer(
    sink: BinaryIO,
    decode: Callable[..., Decoded],
    decode_frames: Callable[..., Iterable[Decoded]],
    request: _Request,
) -> None:
    data, enough, frame, choice = request
    try:
        if choice is None:
            decoded = [decode(data, enough=enough, frame=frame)]
        else:  # all of them first: a damaged one is the file's failure
            decoded = list(decode_frames(data, enough=enough, frames=choice))
    except ImageError as error:
        _refuse(sink, error.stage, error.reason, error.detail)
    except MemoryError:
        _refuse(sink, "decode", "too_much_memory", f"more than {len(data)} bytes of file may take")
    else:
        for more, one in zip(reversed(range(len(decoded))), decoded, strict=True):
            _send(sink, one, more)


def _refuse(sink: BinaryIO, stage: str, reason: str, detail: str) -> None:
    readable = detail[:MAX_DETAIL_CHARS].encode("utf-8", "replace").decode()
    _say(sink, {"stage": stage, "reason": reason, "detail": readable})


def _send(sink: BinaryIO, decoded: Decoded, more: int) -> None:
    image = decoded.image
    width, height = image.size
    length = width * height * len(image.getbands())
    whole: dict[str, object] = {
        "width": decoded.width,
        "height": decoded.height,
        "format": decoded.format,
        "notes": decoded.notes,
    }
    if decoded.orientation != 1:
        whole["orientation"] = decoded.orientation
    if decoded.frame is not None:
        whole |= {"frame": decoded.frame, "n_frames": decoded.n_frames, "more": more}
    _say(sink, whole | {"sent_width": width, "sent_height": height, "length": length})
    for top, bottom in strips(width, height):
        _write(sink, image.crop((0, top, width, bottom)).tobytes())


def _say(sink: BinaryIO, header: dict[str, object]) -> None:
    body = json.dumps(header).encode("ascii")
    _write(sink, LENGTH.pack(len(body)) + body)


def _write(sink: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[sink.write(rest) :]


def _forget_complaints() -> None:
    """Keep in stderr only what concerns this image, should it be the last."""
    with contextlib.suppress(OSError):  # a terminal, or a pipe
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)


if __name__ == "__main__":
    main(sys.argv[1:])
