"""Starts the program of a decoder child, with its pipes, the memory that it shares and next to no environment."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scanfleet.decoding import region
from scanfleet.decoding.answers import Pipes
from scanfleet.decoding.protocol import NONE

# Of the worker's environment a child gets these alone: no credentials, no addresses.
ENVIRONMENT = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TMPDIR",
    "SYSTEMROOT",
    "PYTHONPATH",
)
# glibc: keep what one image needed for the next, instead of faulting the same pages in again.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
NUMPY = {"OPENBLAS_NUM_THREADS": "1"}  # it comes with simplejpeg and computes nothing
PIPE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ChildSettings:
    """Limits and program of every child."""

    max_pixels: int
    cpu_seconds: float
    memory_bytes: int
    stretch: bool
    decode: str  # module:function, called in the child

    def command(self, memory: int) -> list[str]:
        """memory: the descriptor of the memory for pixels, or NONE."""
        numbers = (os.getpid(), self.max_pixels, self.cpu_seconds, self.memory_bytes, int(self.stretch))
        # -P: no module is taken from the working folder. faulthandler: names the decoder that crashed.
        flags = ["-P", "-X", "faulthandler", "-m", "scanfleet.decoding.child"]
        return [sys.executable, *flags, *map(str, numbers), self.decode, str(memory)]


def started(settings: ChildSettings, stderr: IO[bytes]) -> tuple[subprocess.Popen[bytes], Pipes]:
    """Raises OSError."""
    memory = region.make()
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            settings.command(NONE if memory is None else memory.descriptor),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
            env=_environment(),
            process_group=0 if sys.platform != "win32" else None,  # Ctrl-C is the worker's business
            pass_fds=() if memory is None else (memory.descriptor,),
        )
    except OSError:
        if memory is not None:
            memory.pixels.close()
        raise
    finally:
        if memory is not None:
            os.close(memory.descriptor)
    assert process.stdin is not None
    assert process.stdout is not None
    _widen(process.stdin, process.stdout)
    pixels = None if memory is None else memory.pixels
    return process, Pipes(process.stdin, process.stdout, pixels, max_pixels=settings.max_pixels)


def _environment() -> dict[str, str]:
    """Our own folder, so that the child finds the modules of this process, installed or not."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    paths = [str(Path(__file__).parents[2]), kept.get("PYTHONPATH", "")]
    return {**kept, **MALLOC, **NUMPY, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def scratch() -> IO[bytes]:
    """A file for stderr: it never blocks the child, and on Linux it needs no disk."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("decoder-stderr"), "w+b", buffering=0)
    else:
        return tempfile.TemporaryFile(buffering=0)


def _widen(*pipes: IO[bytes]) -> None:
    """Fewer changes between the two processes; the kernel may grant less."""
    if sys.platform == "linux":
        import fcntl

        for pipe in pipes:
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
