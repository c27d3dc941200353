"""The people of a run: they start scans, and start them again after an error or when the database was restored."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

from celery import Celery

from scanfleet.db.engine import connect
from scanfleet.errors import AccessDenied, Retryable, UnknownName
from scanfleet.producer.scans.enqueue import enqueue
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.open import open_source
from tests.chaos.archive import BUCKET, ScanSpec
from tests.chaos.expected import Listed
from tests.chaos.fleet.services import RunServices

AGAIN_SECONDS = 1.0  # until somebody runs a command again that ended with an error
# UnknownName: a restored database has lost the scan. AccessDenied: the bucket refuses everything for a while.
ENDS_WITH = (Retryable, UnknownName, AccessDenied)


@dataclass(kw_only=True)
class _Command:
    """`scanfleet scan`. abandoned: it is killed behind its next page. listed: it has ended, and nothing is lost."""

    scan: ScanSpec
    abandoned: threading.Event
    listed: Listed | None = None
    error: str = ""  # that it ended with


class Producers:
    """Runs one command for each scan, each in a thread of its own."""

    def __init__(self, services: RunServices, app: Celery, rng: random.Random) -> None:
        self._settings = services.settings
        self._engine = connect(services.settings)
        self._app = app
        self._rng = rng
        self._lock = threading.Lock()
        self._commands: list[_Command] = []
        self._n_restores = 0
        self._closing = threading.Event()

    def begin(self, scan: ScanSpec) -> None:
        """Start a scan. The same order of starts gives the same ids in the ledger."""
        command = _Command(scan=scan, abandoned=threading.Event())
        with self._lock:
            self._commands.append(command)
        self._start(command)

    def restored(self) -> None:
        """Run every command again, in any order. One that still runs is killed behind its next page, or ends first."""
        with self._lock:
            self._n_restores += 1
            ended = [command for command in self._commands if command.listed is not None]
            for command in self._commands:
                if command.listed is None and self._rng.random() < 0.5:
                    command.abandoned.set()
                command.listed = None
        for command in self._rng.sample(ended, k=len(ended)):
            self._start(command)

    def listed(self) -> list[Listed] | None:
        """Return the last listings of all scans; None while a command runs."""
        with self._lock:
            found = [command.listed for command in self._commands if command.listed is not None]
            return found if len(found) == len(self._commands) else None

    @property
    def scans(self) -> list[ScanSpec]:
        with self._lock:
            return [command.scan for command in self._commands]

    @property
    def errors(self) -> list[str]:
        """What the commands that have to run again ended with the last time."""
        with self._lock:
            return [command.error for command in self._commands if command.listed is None]

    def close(self) -> None:
        self._closing.set()
        self._engine.dispose()

    def _start(self, command: _Command) -> None:
        name = f"scan {command.scan.check.name} {command.scan.model}"
        threading.Thread(target=self._run, args=(command,), name=name, daemon=True).start()

    def _run(self, command: _Command) -> None:
        """Until the command has ended well, and with no restore since it began."""
        while not self._closing.is_set():
            began, n_restores = time.monotonic(), self._n_restores
            ended = self._enqueue(command)
            with self._lock:
                if ended and n_restores == self._n_restores:
                    command.listed = Listed(scan=command.scan, began=began, ended=time.monotonic())
                    return
            if not ended:
                self._closing.wait(AGAIN_SECONDS)

    def _enqueue(self, command: _Command) -> bool:
        """Whether the command came to its end."""
        scan = command.scan
        try:
            sources = [open_source(f"s3://{BUCKET}/{prefix}", self._settings) for prefix in scan.prefixes]
            listing = Listing(sources, Filters())
            settings = self._settings.model_copy(update={"model": scan.model})
            for _ in enqueue(self._engine, self._app, settings, listing=listing, checks=[scan.check]):
                if command.abandoned.is_set():
                    command.abandoned.clear()
                    return False
        except ENDS_WITH as error:
            command.error = f"{type(error).__name__}: {error}"
            return False
        return True
