"""`worker score --devices`: one process a device, or several, restarted when they ask for it.

The processes are workers like any other. This one loads no model: it starts them, passes signals on, and reads in the
ledger how they do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Literal

import structlog

from scanfleet.child_process import describe_exit, environment, module_command, spawn
from scanfleet.config.settings import Settings
from scanfleet.errors import BadSettings
from scanfleet.worker.processes.device_load import DeviceLoad
from scanfleet.worker.processes.process_count import MOST, WINDOW_SECONDS, ProcessCount
from scanfleet.worker.runtime.exit import EX_TEMPFAIL

POLL_SECONDS = 1.0
STEADY_SECONDS = 300.0  # a process that lived for so long begins with the shortest pause again
MAX_PAUSE_SECONDS = 60.0
COUNT_DEVICES = "import torch; print(torch.cuda.device_count())"
COMMAND = module_command("scanfleet.worker", "score")
PerDevice = int | Literal["auto"]

log = structlog.get_logger()


def devices_of(text: str, *, count: Callable[[], int] | None = None) -> list[str]:
    """Read `all`, `0,1` or `cuda:0,cpu`: the settings `device` of the processes. Raises BadSettings."""
    if text == "all":
        found = [f"cuda:{number}" for number in range((count or _n_cards)())]
        if not found:
            raise BadSettings("--devices all: this machine has no CUDA device: name cpu, or leave the option out")
        return found
    words = [word.strip() for word in text.split(",")]
    devices = [f"cuda:{word}" if word.isdecimal() else word for word in words]
    if wrong := [each for each in devices if each != "cpu" and not each.removeprefix("cuda:").isdecimal()]:
        raise BadSettings(f"--devices: {wrong[0]!r} is none: name all, numbers of cards as in 0,1, or cpu")
    return devices


def per_device_of(text: str) -> PerDevice:
    """Read `auto` or a number. Raises BadSettings."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise BadSettings(f"--processes-per-device: {text!r} is neither auto nor a number from 1 to {MOST}")
    return int(text)


def _n_cards() -> int:
    """Ask a child: this process stays small."""
    asked = subprocess.run([sys.executable, "-c", COUNT_DEVICES], capture_output=True, check=False)  # noqa: S603
    return int(asked.stdout) if asked.returncode == 0 else 0


@dataclass(kw_only=True)
class Seat:
    """A place for one process. code: of one that ended and is not to be started again."""

    device: str
    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 1.0
    due: float = 0.0
    code: int | None = None
    leaving: bool = False  # it was one too many


@dataclass(kw_only=True)
class _Device:
    name: str
    count: ProcessCount
    load: DeviceLoad
    seats: list[Seat] = field(default_factory=list)
    checked: float = 0.0


class Supervisor:
    """Starts and restarts the processes of these devices until all have ended."""

    def __init__(
        self,
        settings: Settings,
        devices: Sequence[str],
        *,
        per_device: PerDevice = 1,
        command: tuple[str, ...] = COMMAND,
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        self._settings = settings
        self._command = command
        self._window = window_seconds if per_device == "auto" else None
        self._events: SimpleQueue[int] = SimpleQueue()
        self._stopping = False
        self._n_seats = 0
        self._code = 0
        n = 1 if per_device == "auto" else per_device
        self._devices = [_Device(name=name, count=ProcessCount(n=n), load=DeviceLoad(settings)) for name in devices]

    def run(self) -> int:
        """Return the exit code: 0 when all ended in order, 75 when one did not, else that of the refusal."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda got, _: self._events.put(got))
        for device in self._devices:
            self._fit(device, device.count.n)
            device.checked = time.monotonic()
        while self._seats():
            try:
                got = self._events.get(timeout=POLL_SECONDS)
            except Empty:
                got = 0
            if got in (signal.SIGTERM, signal.SIGINT):
                self._pass_on(signal.Signals(got).name)
            self._reap()
            self._start_due()
            self._measure()
        for device in self._devices:
            device.load.close()
        return self._code

    def _seats(self) -> list[Seat]:
        return [seat for device in self._devices for seat in device.seats]

    def _pass_on(self, why: str) -> None:
        """Send SIGTERM to each process: the first makes it drain, the second hand back at once."""
        log.info("supervisor_stopping", reason=why)
        self._stopping = True
        for seat in self._seats():
            if seat.process is not None:
                seat.process.send_signal(signal.SIGTERM)

    def _start_due(self) -> None:
        for seat in self._seats():
            if seat.process is None and not self._stopping and time.monotonic() >= seat.due:
                self._start(seat)

    def _start(self, seat: Seat) -> None:
        changes: dict[str, object] = {"device": seat.device}
        if self._settings.metrics_port:
            changes["metrics_port"] = self._settings.metrics_port + seat.number
        env = environment(self._settings.model_copy(update=changes))
        # In a session of its own: Ctrl-C reaches this process alone, which passes it on once.
        seat.process = spawn(self._command, env, stdin=subprocess.DEVNULL, stdout=sys.stderr.buffer, stderr=None)
        seat.started = time.monotonic()
        log.info("worker_started", device=seat.device, pid=seat.process.pid)

    def _reap(self) -> None:
        for device in self._devices:
            for seat in list(device.seats):
                code = None if seat.process is None else seat.process.poll()
                if code is not None:
                    self._ended(device, seat, code)
                elif seat.process is None and self._stopping:
                    device.seats.remove(seat)

    def _ended(self, device: _Device, seat: Seat, code: int) -> None:
        seat.process = None
        again = code < 0 or code == EX_TEMPFAIL
        log.info("worker_ended", device=seat.device, cause=describe_exit(code), again=again and not self._stopping)
        if again and not self._stopping and not seat.leaving:
            steady = time.monotonic() - seat.started >= STEADY_SECONDS
            seat.pause = 1.0 if steady else min(2 * seat.pause, MAX_PAUSE_SECONDS)
            seat.due = time.monotonic() + seat.pause
            return
        device.seats.remove(seat)
        if seat.leaving:
            return
        if again:
            self._code = self._code or EX_TEMPFAIL
        elif code:  # no restart helps: a person must change something, and it holds for all
            self._code = code
            self._pass_on(f"a worker ended with {describe_exit(code)}")

    def _measure(self) -> None:
        """Fit the number of processes to what the last window shows."""
        if self._window is None or self._stopping:
            return
        for device in self._devices:
            if time.monotonic() - device.checked < self._window:
                continue
            device.checked = time.monotonic()
            pids = [seat.process.pid for seat in device.seats if seat.process is not None and not seat.leaving]
            span = device.load.since_last(pids)
            if span is not None and pids:
                self._fit(device, device.count.check(span))

    def _fit(self, device: _Device, n: int) -> None:
        staying = [seat for seat in device.seats if not seat.leaving]
        for _ in range(n - len(staying)):
            seat = Seat(device=device.name, number=self._n_seats)
            self._n_seats += 1
            device.seats.append(seat)
            self._start(seat)
        for seat in staying[n:]:
            seat.leaving = True
            if seat.process is not None:
                seat.process.send_signal(signal.SIGTERM)
        if len(staying) not in (0, n):
            log.info("processes_per_device", device=device.name, n=n)


def supervise(settings: Settings, *, devices: str, per_device: str) -> int:
    """Run the processes of these devices until they end. Returns the exit code. Raises BadSettings."""
    log.info("supervisor_started", devices=devices, pid=os.getpid())
    return Supervisor(settings, devices_of(devices), per_device=per_device_of(per_device)).run()
