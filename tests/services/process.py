"""A server process in a temporary directory: start, wait until it answers, stop, kill, pause, start again."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.helpers.patience import patient

from .errors import ServiceFailedError
from .ports import free_port

LAUNCHER = Path(__file__).with_name("launcher.py")
START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 20.0  # seconds until SIGTERM is followed by SIGKILL
POLL_INTERVAL = 0.02  # seconds between two attempts to reach the server
LOG_TAIL = 2_000  # characters of the server's log in an error message


class Service(ABC):
    """Base of the three servers. The directory lives until `close()`, over any number of starts."""

    stop_signal = signal.SIGTERM

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"scanfleet-{type(self).__name__.lower()}-"))
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The server in the foreground, listening on 127.0.0.1:port."""

    @abstractmethod
    def answers(self) -> bool:
        """One attempt to speak the protocol; False while the server is still starting."""

    def prepare(self) -> None:  # noqa: B027 - a hook, empty on purpose
        """Write configuration and data directory before the first start."""

    def owner(self) -> tuple[int, int] | None:
        """(uid, gid) the server runs as, None for the test's own."""
        return None

    @property
    def running(self) -> bool:
        """Whether the process exists; a paused one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._live().pid

    @property
    def log(self) -> str:
        """The server's output on stdout and stderr."""
        path = self.directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Start on the same port and data, and return once it answers."""
        if self.running:
            raise ServiceFailedError(f"{type(self).__name__} already runs")
        self.prepare()
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.launched(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C at the terminal is pytest's, which then stops the server
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise
        return self

    def launched(self, command: list[str]) -> list[str]:
        """The command wrapped so that it runs as `owner()` and dies with this process."""
        ids = [str(number) for number in self.owner() or ()]
        return [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *ids, "--", *command]

    def stop(self) -> None:
        """Stop the server in order; does nothing when it does not run."""
        if self._process is None:
            return
        if self.running:
            self.resume()
            self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to the server and all its children, as a power cut would; the data stay."""
        if self._process is None:
            return
        family = self._family()
        for member in family:
            _signal(member, signal.SIGKILL)
        psutil.wait_procs([member for member in family if member.pid != self._process.pid], timeout=STOP_TIMEOUT)
        self._process.wait(STOP_TIMEOUT)
        self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._live()
        for member in self._family():
            _signal(member, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause()`."""
        self._live()
        for member in self._family():
            _signal(member, signal.SIGCONT)

    def close(self) -> None:
        """Stop and remove the directory."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _live(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ServiceFailedError(f"{type(self).__name__} does not run: {self.log[-LOG_TAIL:]}")
        return self._process

    def _family(self) -> list[psutil.Process]:
        """The server first, then its children (PostgreSQL puts each of them into a session of its own)."""
        if not self.running:
            return []
        try:
            server = psutil.Process(self.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _listens(self) -> bool:
        """Return True if this process has the port: another server there would answer as well."""
        try:
            sockets = psutil.Process(self.pid).net_connections(kind="tcp")
        except psutil.Error:  # ended, or still changing its user
            return False
        return any(s.status == psutil.CONN_LISTEN and s.laddr.port == self.port for s in sockets)

    def _wait_until_it_answers(self) -> None:
        start = time.monotonic()
        while not (self._listens() and self.answers()):
            self._live()
            if time.monotonic() - start > patient(START_TIMEOUT):
                name = type(self).__name__
                raise ServiceFailedError(
                    f"{name} gave no answer in {time.monotonic() - start:.0f} s: {self.log[-LOG_TAIL:]}"
                )
            time.sleep(POLL_INTERVAL)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # ended between the listing and the signal
