"""Starts, watches and stops worker processes on this machine, for `scanfleet run`. Knows only their command line."""

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
from scanfleet.config.extras import install_hint
from scanfleet.config.settings import Settings
from scanfleet.errors import MissingExtra, UnknownModel, WorkerDied

COMMAND = module_command("scanfleet.worker", "score")
STOP_GRACE_SECONDS = 10.0  # in addition to the workers' own drain_seconds
EX_TEMPFAIL = 75  # of a worker that must be restarted
MAX_DEATHS = 8  # in a row without a finished image; an image that kills its worker is found after four


def require_worker_extra() -> None:
    """Raise MissingExtra if the worker extra is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(f"this command needs the worker extra, which is not installed: {install_hint('worker')}")


@dataclass(frozen=True, kw_only=True)
class _Child:
    process: subprocess.Popen[bytes]
    log: Path


class LocalWorkers:
    """A context: leaving it stops the workers, also after an error or Ctrl-C."""

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
        """say: prints one line for the user. on_death: called with the pid of a worker that died."""
        self._settings = settings
        self._n = n
        self._command = command
        self._drain_seconds = settings.drain_seconds
        self._grace_seconds = grace_seconds
        self._say = say
        self._on_death = on_death
        self._n_deaths = 0  # since the last progress
        self._progress = 0
        self._reported_waiting = False
        self._children: list[_Child] = []

    def start(self) -> None:
        """Start the workers unless they run already."""
        if not self._children:
            self._children = [self._start(number) for number in range(1, self._n + 1)]

    def say_why_waiting(self, reason: str) -> None:
        """Print once why the workers wait. reason: from their rows in the database."""
        if self._children and not self._reported_waiting:
            self._reported_waiting = True
            self._say(f"the worker waits: {reason} (log: {self._children[0].log})")

    @property
    def logs(self) -> list[Path]:
        return [child.log for child in self._children]

    def check(self, progress: int = 0) -> None:
        """Restart workers that were killed or ask for it. progress: images that all workers have finished so far.

        Raises UnknownModel if the hub refused their model, WorkerDied if one ended with any other exit code, or if
        `MAX_DEATHS` died while no image was finished.
        """
        if progress != self._progress:
            self._progress, self._n_deaths = progress, 0
        for at, child in enumerate(self._children):
            code = child.process.poll()
            if code is None:
                continue
            cause = describe_exit(code)
            self._n_deaths += 1
            if not (code < 0 or code == EX_TEMPFAIL) or self._n_deaths > MAX_DEATHS:
                detail = last_line(child.log).removeprefix("scanfleet: ")
                if code == UnknownModel.exit_code:
                    raise UnknownModel(f"{detail} (log: {child.log})")
                raise WorkerDied(f"a worker ended ({cause}): {detail} (log: {child.log})")
            self._on_death(child.process.pid)
            self._say(f"a worker ended ({cause}), another one takes over (log: {child.log})")
            self._children[at] = self._start(at + 1)

    def _start(self, number: int) -> _Child:
        log = self._settings.make_folder("logs") / f"worker-{os.getpid()}-{number}.log"
        with log.open("ab") as out:
            # Ctrl-C reaches this process only, which then stops the workers in order.
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
        """Send SIGTERM: the workers finish or hand back within their drain time. On Ctrl-C hand back now, then kill.

        Nothing is lost in either case.
        """
        drain = (
            f"stopping: the workers finish or hand back their batches within {self._drain_seconds:g} s; "
            "press Ctrl-C again to hand back now"
        )
        interrupted = self._end(self._drain_seconds + self._grace_seconds, message=drain if early else None)
        if interrupted:
            self._end(
                self._grace_seconds, message="handing back now; press Ctrl-C again to kill the workers: nothing is lost"
            )
        for child in self._living():
            child.process.kill()
            child.process.wait()

    def _end(self, seconds: float, *, message: str | None) -> bool:
        """Send SIGTERM, print the message, and wait for the workers to end. Return True if a signal interrupted it."""
        deadline = time.monotonic() + seconds
        try:
            living = self._living()
            for child in living:
                child.process.send_signal(signal.SIGTERM)
            if living and message is not None:
                self._say(message)
            for child in living:
                child.process.wait(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            return False
        except (KeyboardInterrupt, SystemExit):  # a second Ctrl-C or SIGTERM
            return True
        return False

    def _living(self) -> list[_Child]:
        return [child for child in self._children if child.process.poll() is None]


def last_line(log: Path) -> str:
    """Return the last line that is not blank, shortened."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 8192, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"its log cannot be read: {error.strerror}"
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "its log is empty")
