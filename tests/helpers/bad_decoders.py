"""What decoder children call in tests: the first word of the data names what happens to the process."""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

from PIL import Image

from scanfleet.errors import ImageError
from scanfleet.images import Decoded, Enough, Frame
from scanfleet.images.types import FrameChoice

BLOCK = 1 << 20


def decode(data: bytes, *, max_pixels: int, enough: Enough | None, stretch: bool, frame: int = 0) -> Decoded:
    order, *words = data.decode().split()
    return ORDERS[order](*words)


def decode_frames(
    data: bytes, *, max_pixels: int, enough: Enough | None, stretch: bool, frames: FrameChoice
) -> list[Decoded]:
    """As many pictures as the number before the order says."""
    n, _, order = data.partition(b" ")
    one = decode(order, max_pixels=max_pixels, enough=enough, stretch=stretch)
    return [dataclasses.replace(one, frame=Frame(number, None), n_frames=int(n)) for number in range(int(n))]


def picture(width: str = "4", height: str = "3") -> Decoded:
    size = (int(width), int(height))
    return Decoded(image=Image.new("RGB", size, (1, 2, 3)), width=size[0], height=size[1], format="PNG")


def refuse() -> Decoded:
    raise ImageError(stage="decode", reason="truncated", detail="\udcff half a picture \0")


def abort() -> Decoded:
    os.abort()


def abort_until(folder: str, times: str) -> Decoded:
    """Die N times, counted by files, and then answer."""
    n = len(list(Path(folder).iterdir()))
    if n < int(times):
        # Not a file's content: children may write hardly any.
        os.close(os.open(Path(folder) / str(n), os.O_CREAT | os.O_WRONLY))
        os.abort()
    return picture()


def crash() -> Decoded:
    raise AssertionError("a fault of the decoder's own, with café and \udcff in it")


def burn() -> Decoded:
    while True:
        pass


def toil(seconds: str) -> Decoded:
    """Take so much CPU time, and answer."""
    start = time.process_time()
    while time.process_time() - start < float(seconds):
        pass
    return picture()


def burn_and_ignore() -> Decoded:
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    return burn()


def allocate() -> Decoded:
    hoard = []
    while True:
        hoard.append(bytearray(BLOCK))


def leak(blocks: str) -> Decoded:
    LEAKED.append(bytearray(int(blocks) * BLOCK))
    return picture()


LEAKED: list[bytearray] = []


def hang() -> Decoded:
    while True:
        time.sleep(60)


def wait(folder: str) -> Decoded:
    """Tell that it has begun, and answer when the file `go` is there."""
    os.close(os.open(Path(folder) / f"began-{os.getpid()}", os.O_CREAT | os.O_WRONLY))
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    return picture()


def shout() -> Decoded:
    """A library that prints to stdout and stderr."""
    os.write(1, b"{}" * 4000)
    os.write(2, b"warning\n" * 4000)
    sys.stdout.write("and Python too")
    sys.stdout.flush()
    return picture()


def lie() -> Decoded:
    """A size that is not that of the pixels."""
    image = Image.new("L", (8, 8))
    return Decoded(image=image, width=8, height=8, format="PNG")


def swell() -> Decoded:
    """More pixels than the file is said to have."""
    return Decoded(image=Image.new("RGB", (8, 8)), width=8, height=7, format="PNG")


def boast() -> Decoded:
    return picture("3000", "3000")


def whoami() -> Decoded:
    """The environment, the limits and the signals of a child, as a refusal's detail."""
    import resource

    ignored = [name for name in ("SIGINT", "SIGTERM") if signal.getsignal(signal.Signals[name]) is signal.SIG_IGN]
    cores = resource.getrlimit(resource.RLIMIT_CORE)
    seconds, _ = signal.getitimer(signal.ITIMER_PROF)
    memory, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = f"cores {cores}, {seconds:.1f} s, {memory >> 20} MB, ignores {ignored}"
    raise ImageError(stage="decode", reason="truncated", detail=f"{limits}, {sorted(os.environ)}")


ORDERS = {
    function.__name__: function
    for function in (
        picture, refuse, abort, abort_until, crash, burn, toil, burn_and_ignore, allocate, leak, hang, wait, shout, lie,
        swell, boast, whoami,
    )
}  # fmt: skip
