"""Worker processes on this machine, for `scanfleet run`: started, watched, stopped. Knows only their command line."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from scanfleet.child_process import describe_exit, environment, module_command, spawn
from scanfleet.config.extras import how_to_get
from scanfleet.config.settings import Settings
from scanfleet.errors import MissingExtra, WorkerDied

COMMAND = module_command("worker", "score")
STOP_GRACE_SECONDS = 10.0  # beyond the workers' own drain_seconds
EX_TEMPFAIL = 75  # a worker that asks to be started again
MAX_DEATHS = 8  # in a row without an image done; one that kills its worker is found after four


def require_worker_extra() -> None:
    """Raises MissingExtra where the computing half is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(f"this needs the worker half, which is not installed here: {how_to_get('worker')}")


@dataclass(frozen=True, kw_only=True)
class _Child:
    process: subprocess.Popen[bytes]
    log: Path


class LocalWorkers:
    """A context: its workers are stopped at the end, also after an error or Ctrl-C."""

    def __init__(
        self,
        settings: Settings,
        *,
        n: int,
        command: tuple[str, ...] = COMMAND,
        grace_seconds: float = STOP_GRACE_SECONDS,
        say: Callable[[str], None] = lambda _: None,
        on_death: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`say`: takes one line for the person who waits. `on_death`: is told the pid of a worker that died."""
        self._settings = settings
        self._n = n
        self._command = command
        self._drain_seconds = settings.drain_seconds
        self._grace_seconds = grace_seconds
        self._say = say
        self._on_death = on_death
        self._n_deaths = 0  # since the last progress
        self._progress = 0
        self._told_why = False
        self._children: list[_Child] = []

    def start(self) -> None:
        """Start them unless they run already."""
        if not self._children:
            self._children = [self._start(number) for number in range(1, self._n + 1)]

    def say_why_waiting(self, why: str) -> None:
        """Once. why: what they said in the ledger."""
        if self._children and not self._told_why:
            self._told_why = True
            self._say(f"the worker waits: {why} (log: {self._children[0].log})")

    @property
    def logs(self) -> list[Path]:
        return [child.log for child in self._children]

    def check(self, progress: int = 0) -> None:
        """Start a worker again that was killed or asks for it. progress: images done so far, by all of them.

        Raises WorkerDied when one ended for a reason of its own, or `MAX_DEATHS` died while no image was done.
        """
        if progress != self._progress:
            self._progress, self._n_deaths = progress, 0
        for at, child in enumerate(self._children):
            code = child.process.poll()
            if code is None:
                continue
            how = describe_exit(code)
            self._n_deaths += 1
            if not (code < 0 or code == EX_TEMPFAIL) or self._n_deaths > MAX_DEATHS:
                words = last_line(child.log).removeprefix("scanfleet: ")
                raise WorkerDied(f"a worker ended ({how}): {words} (log: {child.log})")
            self._on_death(child.process.pid)
            self._say(f"a worker ended ({how}), another one takes over (log: {child.log})")
            self._children[at] = self._start(at + 1)

    def _start(self, number: int) -> _Child:
        log = self._settings.make_folder("logs") / f"worker-{os.getpid()}-{number}.log"
        with log.open("ab") as out:
            # Ctrl-C reaches us alone; we stop the workers in order.
            process = spawn(
                self._command, environment(self._settings), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        return _Child(process=process, log=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(early=kind is not None)

    def _stop(self, *, early: bool) -> None:
        """SIGTERM: they finish or hand back in their drain time. Interrupted meanwhile: hand back now, then kill.

        Whatever way they end, nothing is lost.
        """
        drain = (
            f"stopping: the workers finish or hand back what they hold within {self._drain_seconds:g} s; "
            "Ctrl-C again: hand back now"
        )
        interrupted = self._end(self._drain_seconds + self._grace_seconds, words=drain if early else None)
        if interrupted:
            self._end(self._grace_seconds, words="handing back now; Ctrl-C again: kill the workers, nothing is lost")
        for child in self._living():
            child.process.kill()
            child.process.wait()

    def _end(self, seconds: float, *, words: str | None) -> bool:
        """Send SIGTERM, say so, wait until all have ended or the time is over. True: it was cut short by a person."""
        deadline = time.monotonic() + seconds
        try:
            living = self._living()
            for child in living:
                child.process.send_signal(signal.SIGTERM)
            if living and words is not None:
                self._say(words)
            for child in living:
                child.process.wait(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            return False
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C or SIGTERM once more
            return True
        return False

    def _living(self) -> list[_Child]:
        return [child for child in self._children if child.process.poll() is None]


def last_line(log: Path) -> str:
    """The last line with words in it, shortened."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 8192, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"its log cannot be read: {error.strerror}"
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "its log is empty")
