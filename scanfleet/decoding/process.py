"""One decoder child, as the worker sees it: a program that answers for the images of a turn, or dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from scanfleet.decoding.answers import Answer, Nonsense
from scanfleet.decoding.protocol import Wanted, cpu_seconds
from scanfleet.decoding.spawning import ChildSettings, scratch, started

END_SECONDS = 10.0  # a killed process is gone long before, unless it hangs in the kernel
MAX_SAID_CHARS = 2000
TICKS = os.sysconf("SC_CLK_TCK") if sys.platform != "win32" else 100

Why = Literal["still", "too_slow", "nonsense", "closed"]


class ChildDied(Exception):
    """The child ended with images in hand. `how`: a signal, an exit code or what the worker killed it for."""

    def __init__(self, *, how: str, said: str, too_slow: bool = False) -> None:
        super().__init__(how)
        self.how = how
        self.said = said  # the end of its stderr
        self.too_slow = too_slow  # it used up its CPU time


class DecoderProcess:
    """Used by one thread at a time; other threads may call `check` and `kill`."""

    def __init__(self, settings: ChildSettings) -> None:
        """Start the program without waiting for it. Raises OSError.

        On Linux the child dies with the thread that calls this.
        """
        self._settings = settings
        self._stderr = scratch()
        self._lock = threading.Lock()
        self._busy = False
        self._killed_for: Why | None = None
        self._cpu_before: float | None = None  # seconds at the first check of this turn
        self._cpu = 0.0  # at the last one
        self._cpu_limit = 0.0  # of this turn
        self._n_still = 0
        self.n_images = 0
        self.n_idle = 0  # checks since its last turn: the pool counts them
        try:
            self._process, self._pipes = started(settings, self._stderr)
        except OSError:
            self._stderr.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait until the program is ready. Raises ChildDied if it cannot start."""
        with self._at_work():
            try:
                self._pipes.wait_ready()
            except (EOFError, OSError, Nonsense) as error:
                raise self._autopsy(error) from None

    def decode(self, files: Sequence[bytes], wanted: Wanted) -> list[Answer]:
        """Return the answers for the first files, at least for one.

        An answer is the frames that are wanted, or an ImageError as of scanfleet.images.decoding, or too_much_memory.
        Raises ChildDied.
        """
        with self._at_work(n_images=len(files)):
            try:
                self._pipes.ask(files, wanted)
                answers = self._pipes.answers(len(files), wanted)
            except (EOFError, OSError, Nonsense) as error:
                raise self._autopsy(error) from None
        self.n_images += len(answers)
        return answers

    def check(self, *, max_still: int) -> None:
        """Kill the child if it decodes and has used no CPU time for `max_still` checks, or far too much.

        Checks are counted, not seconds: after a long sleep of the machine one check counts like any other.
        """
        with self._lock:
            if not self._busy:
                return
            cpu = _cpu_seconds(self.pid)
            if self._cpu_before is None:
                self._cpu_before = self._cpu = cpu
                return
            self._n_still = self._n_still + 1 if cpu <= self._cpu else 0
            self._cpu = cpu
            if self._n_still >= max_still:
                self._kill("still")
            elif cpu - self._cpu_before > 2 * self._cpu_limit:
                self._kill("too_slow")  # its own limit has no effect

    def kill(self) -> None:
        """The thread that waits for its answer gets ChildDied."""
        with self._lock:
            self._kill("closed")

    def end(self) -> None:
        """Kill and reap the child and close its files. Only the thread that uses it may call this."""
        with self._lock:
            self._busy = False
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._pipes.close()
        self._stderr.close()

    def _kill(self, why: Why) -> None:
        self._killed_for = self._killed_for or why
        self._process.kill()

    @contextlib.contextmanager
    def _at_work(self, *, n_images: int = 1) -> Iterator[None]:
        with self._lock:
            self._busy = True
            self._cpu_before = None
            self._cpu_limit = n_images * cpu_seconds(self._settings.cpu_seconds, n_images)
            self._n_still = 0
        try:
            yield
        finally:
            with self._lock:
                self._busy = False

    def _autopsy(self, error: Exception) -> ChildDied:
        """Return the cause of death: the exit status, unless it was killed or its answer is invalid."""
        if isinstance(error, Nonsense):
            with self._lock:
                self._kill("nonsense")
        with contextlib.suppress(subprocess.TimeoutExpired):  # it closed its pipe and lives
            self._process.wait(END_SECONDS)
        said = _tail(self._stderr)
        self.end()
        how = self._killed_for or _exit_words(self._process.returncode)
        return ChildDied(how=how, said=said or str(error), too_slow=how in ("too_slow", "SIGPROF"))


def _tail(file: IO[bytes]) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - MAX_SAID_CHARS))
    return file.read().decode("utf-8", "replace").strip()


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process; 0 where there is no /proc, so that every look there finds it still."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _exit_words(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"exit code {code}"
