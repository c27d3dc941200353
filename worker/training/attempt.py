"""One attempt at a training: a fresh process computes, this one holds the lease.

A process of its own, and no fork of this one: torch is never loaded here, a kill at any point costs no more than the
attempt, and all memory, the device's included, comes back. The child tells in JSON lines where it stands and how it
ended; it writes to the ledger itself, under the lease's token, what it found out.

What the parent knows of a training under way, and whether it got further than any attempt before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import IO, Any

import sqlalchemy as sa
import structlog

from scanfleet.child_process import describe_exit, environment, json_lines, module_command
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.training import trainings
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.errors import DatabaseUnavailable, LeaseLost
from worker.runtime.retry import retry_until
from worker.runtime.shutdown import Stop
from worker.runtime.timer import Timer

FURTHEST = "furthest"  # [number of the stage, step in it]
IN_VAIN = ("crashes", "losses", "retries")  # counts that begin anew when a training gets further


class AttemptProgress:
    """Filled by the thread that hears the child; read by the heartbeat."""

    def __init__(self, stage: str | None, progress: dict[str, Any] | None) -> None:
        """As the row of the training says it."""
        self._lock = threading.Lock()
        self._stage = stage
        self._kept = {name: value for name, value in (progress or {}).items() if name in (FURTHEST, *IN_VAIN)}
        self._shown: dict[str, Any] = dict(progress or {})

    def note(self, stage: str, number: int, figures: dict[str, Any]) -> bool:
        """figures: for people, with `step` where there are steps. Returns whether a stage began."""
        with self._lock:
            began = stage != self._stage
            here = [number, int(figures.get("step", 0))]
            if here > self._kept.get(FURTHEST, []):
                self._kept = {FURTHEST: here}
            self._stage = stage
            self._shown = dict(figures)
            return began

    def read(self) -> tuple[str | None, dict[str, Any]]:
        """Stage, and progress as the row keeps it."""
        with self._lock:
            return self._stage, self._shown | self._kept


log = structlog.get_logger()

CHILD = "worker.training.child"
BEAT_SECONDS = 5.0  # at most, between two: people watch the progress
TICK_SECONDS = 0.2  # between two looks whether to stop
STALL_SECONDS = 3600.0  # a child that says nothing for so long hangs: large models take minutes for a step


class Attempt:
    """`run` it once. module: what `python -m` runs."""

    def __init__(
        self,
        engine: sa.Engine,
        settings: Settings,
        held: TrainingInfo,
        stop: Stop,
        *,
        module: str = CHILD,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._held = held
        self._stop = stop
        self._module = module
        self._stall_seconds = stall_seconds
        self._standing = AttemptProgress(held.stage, held.progress)
        self._beating = threading.Lock()
        self._lost = False
        self._stopping = False
        self._last: dict[str, Any] = {}  # word of the child
        self._kill: Callable[[], None] = lambda: None

    def run(self) -> None:
        """From start to end; the training is settled, or ready again, or another's."""
        seconds = min(self._settings.train_lease_seconds / 3, BEAT_SECONDS)
        heartbeat = Timer("training_heartbeat", self._beat, seconds=seconds)
        heartbeat.start()
        try:
            how = self._listen()
        finally:
            self._stop.unlisten(self)
            heartbeat.stop()
        self._end(how)

    def _listen(self) -> str:
        """Until the child has ended. Returns how it did."""
        process = self._spawn()
        self._kill = process.kill
        self._stop.listen(self, process.kill)  # it has had its time to end by itself
        try:
            silent = self._follow(process)
        except BaseException:
            process.kill()
            raise
        if silent:
            process.kill()
        code = process.wait()
        if silent:
            return f"it gave no sign for {self._stall_seconds:.0f} s"
        return describe_exit(code) if code < 0 else str(self._last.get("words") or describe_exit(code))

    def _follow(self, process: subprocess.Popen[bytes]) -> bool:
        """Hear the child until its pipe ends. Returns whether it fell silent before."""
        heard, inbox = time.monotonic(), _lines_of(process)
        while time.monotonic() - heard <= self._stall_seconds:
            if self._stop.draining and not self._stopping:
                self._stopping = True
                process.send_signal(signal.SIGTERM)
            try:
                line = inbox.get(timeout=TICK_SECONDS)
            except Empty:
                continue
            if line is None:
                return False
            heard = time.monotonic()
            for message in json_lines([line]):
                self._hear(message)
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        numbers = (self._held.id, self._held.lease_token, os.getpid())
        log.info("training_started", training=self._held.id, check=self._held.check_name, reason=self._held.reason)
        return subprocess.Popen(  # noqa: S603 - our own program, no shell
            module_command(self._module, *numbers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment(self._settings),
            start_new_session=True,  # Ctrl-C is the worker's business
        )

    def _hear(self, message: dict[str, Any]) -> None:
        if message["kind"] != "progress":
            self._last = message
        elif self._standing.note(message["stage"], message["number"], message["figures"]):
            log.info("training_stage", training=self._held.id, stage=message["stage"])
            self._beat()

    def _beat(self) -> None:
        """A database that is away costs a beat; the next one comes before the lease is over."""
        try:
            self._beat_once()
        except DatabaseUnavailable as error:
            log.warning("training_beat_failed", training=self._held.id, error=str(error))

    def _beat_once(self) -> None:
        stage, progress = self._standing.read()
        seconds = self._settings.train_lease_seconds
        try:
            with self._beating, transaction(self._engine) as connection:
                trainings.beat(connection, self._held, lease_seconds=seconds, stage=stage, progress=progress)
        except LeaseLost as error:
            self._lose(error)

    def _lose(self, error: LeaseLost) -> None:
        """Unless the child itself has settled it: then it only has its report to draw."""
        with reading(self._engine) as connection:
            found = trainings.get(connection, self._held.id)
        if found.state == "done" and found.lease_token == self._held.lease_token:
            return
        if not self._lost:
            log.warning("training_lost", training=self._held.id, error=str(error))
        self._lost = True
        self._kill()

    def _end(self, how: str) -> None:
        kind, words = self._last.get("kind"), str(self._last.get("words", ""))
        _, progress = self._standing.read()
        if kind == "done":
            log.info("training_done", training=self._held.id, verdict=words)
        elif kind == "failed":
            log.warning("training_failed", training=self._held.id, why=words)
            self._write(lambda connection: trainings.settle(connection, self._held, error=words, report=self._report()))
        elif kind == "waits":
            log.warning("training_deferred", training=self._held.id, error=words)
            self._write(lambda connection: self._wait(connection, words, progress))
        elif kind == "stopped" or (self._stopping and kind is None):
            log.info("training_handed_back", training=self._held.id)
            self._write(lambda connection: trainings.give_back(connection, self._held))
        elif kind == "lost":
            log.warning("training_lost", training=self._held.id, error=words)
        elif not self._lost:
            log.error("training_crashed", training=self._held.id, how=how)
            self._write(lambda connection: trainings.crashed(connection, self._held, how=how, progress=progress))

    def _report(self) -> dict[str, Any] | None:
        report: dict[str, Any] | None = self._last.get("report")
        return report

    def _wait(self, connection: sa.Connection, words: str, progress: dict[str, Any]) -> None:
        trainings.wait(connection, self._held, waiting_for=words, progress=progress)

    def _write(self, statement: Callable[[sa.Connection], object]) -> None:
        """Under the token. What cannot be written is made good by the lease, which runs out."""
        deadline = time.monotonic() + self._settings.train_lease_seconds

        def write() -> None:
            with transaction(self._engine) as connection:
                statement(connection)

        try:
            retry_until(write, until=lambda: deadline, stop=self._stop)
        except LeaseLost as error:
            log.warning("training_lost", training=self._held.id, error=str(error))
        except DatabaseUnavailable as error:
            log.warning("training_result_not_saved", training=self._held.id, error=str(error))


def _lines_of(process: subprocess.Popen[bytes]) -> SimpleQueue[bytes | None]:
    """What the child says, a line each; None when its pipe has ended."""
    inbox: SimpleQueue[bytes | None] = SimpleQueue()
    assert process.stdout is not None

    def read(stdout: IO[bytes]) -> None:
        with stdout:
            for line in stdout:
                inbox.put(line)
        inbox.put(None)

    threading.Thread(target=read, args=(process.stdout,), name="training-child", daemon=True).start()
    return inbox
