"""The workers of a run, restarted when they end, as by docker compose."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from tests.chaos.fleet.services import RunServices
from tests.chaos.options import Options
from tests.services.process import LAUNCHER

RESTART_SECONDS = 0.3
POLL_SECONDS = 0.1
STOP_SECONDS = 20.0
LOG_TAIL = 3000  # characters


class Slot:
    """A slot for a worker: one process after another, with one log."""

    def __init__(self, number: int, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.number = number
        self.log_path = log
        self.frozen = False
        self.process: subprocess.Popen[bytes] | None = None
        self.n_starts = 0
        self._command = command
        self._environment = environment

    @property
    def pid(self) -> int | None:
        """The id of the running process, also of a frozen one."""
        process = self.process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        with self.log_path.open("ab") as stream:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self.log_path.parent,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        self.frozen = False
        self.n_starts += 1

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)  # does nothing to a process that has ended

    def log_tail(self) -> str:
        return self.log_path.read_text(errors="replace")[-LOG_TAIL:]


class Supervisor:
    """Starts the workers, and starts again whichever ends. exits: exit code -> how often (-9: killed)."""

    def __init__(self, services: RunServices, options: Options) -> None:
        self.exits: Counter[int] = Counter()
        self.slots = [
            Slot(
                number,
                _command(options),
                services.environment(number, options),
                services.folder / f"worker-{number}.log",
            )
            for number in range(options.workers)
        ]
        self._ending = threading.Event()
        self._ended = threading.Event()
        # A worker dies with the thread that started it, so one thread starts them all and lives to the end.
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    @property
    def n_restarts(self) -> int:
        return sum(max(slot.n_starts - 1, 0) for slot in self.slots)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Counter[int]:
        """SIGTERM to all, SIGKILL to those that do not end. Returns the exit codes of this end."""
        self._ending.set()
        for slot in self.slots:
            slot.signal(signal.SIGCONT)
            slot.signal(signal.SIGTERM)
        codes: Counter[int] = Counter()
        for slot in self.slots:
            if slot.process is None:
                continue
            try:
                codes[slot.process.wait(STOP_SECONDS)] += 1
            except subprocess.TimeoutExpired:
                slot.signal(signal.SIGKILL)
                codes[slot.process.wait()] += 1
        self._ended.set()
        self._thread.join()
        return codes

    def keep_logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for slot in self.slots:
            shutil.copy(slot.log_path, folder)

    def _watch(self) -> None:
        while not self._ending.is_set():
            for slot in self.slots:
                self._look_after(slot)
            self._ending.wait(POLL_SECONDS)
        self._ended.wait()

    def _look_after(self, slot: Slot) -> None:
        if slot.pid is not None:
            return
        if slot.process is not None:
            self.exits[slot.process.returncode] += 1
            if self._ending.wait(RESTART_SECONDS):
                return
        slot.start()


def _command(options: Options) -> list[str]:
    module = ["scanfleet.worker"] if options.without is None else ["tests.chaos.fleet.sabotage", options.without]
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), "--"]
    return [*launcher, sys.executable, "-m", *module, "score"]
