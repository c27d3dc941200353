"""One attempt at a training: a fresh process computes, this one holds the lease.

The child is a new process, not a fork: torch is never loaded here, a kill at any point costs no more than the attempt,
and all memory, the device's included, is freed. The child reports its progress and its outcome in JSON lines; it writes
its results to the ledger itself, under the lease's token.
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
from scanfleet.worker.runtime.retry import retry_until
from scanfleet.worker.runtime.shutdown import Stop
from scanfleet.worker.runtime.timer import Timer
from scanfleet.worker.training.progress import ProgressTracker

log = structlog.get_logger()

CHILD = "scanfleet.worker.training.child"
BEAT_SECONDS = 5.0  # at most, between two heartbeats: people watch the progress
TICK_SECONDS = 0.2  # between two checks for a stop
STALL_SECONDS = 3600.0  # a child without a message for this long is hung: large models take minutes for a step


class Attempt:
    """Call `run` once. module: run by `python -m`."""

    def __init__(
        self,
        engine: sa.Engine,
        settings: Settings,
        training: TrainingInfo,
        stop: Stop,
        *,
        module: str = CHILD,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._training = training
        self._stop = stop
        self._module = module
        self._stall_seconds = stall_seconds
        self._progress = ProgressTracker(training.stage, training.progress)
        self._beating = threading.Lock()
        self._lost = False
        self._stopping = False
        self._last_message: dict[str, Any] = {}  # of the child
        self._kill: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Run the child to its end. Afterwards the training is settled, ready again, or leased by another worker."""
        seconds = min(self._settings.train_lease_seconds / 3, BEAT_SECONDS)
        heartbeat = Timer("training_heartbeat", self._beat, seconds=seconds)
        heartbeat.start()
        try:
            cause = self._run_child()
        finally:
            self._stop.unlisten(self)
            heartbeat.stop()
        self._record_outcome(cause)

    def _run_child(self) -> str:
        """Wait until the child has ended. Returns the cause."""
        process = self._spawn()
        self._kill = process.kill
        self._stop.listen(self, process.kill)  # after the drain time
        try:
            stalled = self._follow(process)
        except BaseException:
            process.kill()
            raise
        if stalled:
            process.kill()
        code = process.wait()
        if stalled:
            return f"it sent no message for {self._stall_seconds:.0f} s"
        return describe_exit(code) if code < 0 else str(self._last_message.get("words") or describe_exit(code))

    def _follow(self, process: subprocess.Popen[bytes]) -> bool:
        """Read messages until the pipe of the child ends. Returns True if it stalled before that."""
        received_at, inbox = time.monotonic(), _lines_of(process)
        while time.monotonic() - received_at <= self._stall_seconds:
            if self._stop.draining and not self._stopping:
                self._stopping = True
                process.send_signal(signal.SIGTERM)
            try:
                line = inbox.get(timeout=TICK_SECONDS)
            except Empty:
                continue
            if line is None:
                return False
            received_at = time.monotonic()
            for message in json_lines([line]):
                self._receive(message)
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        numbers = (self._training.id, self._training.lease_token, os.getpid())
        log.info(
            "training_started",
            training=self._training.id,
            check=self._training.check_name,
            reason=self._training.reason,
        )
        return subprocess.Popen(  # noqa: S603 - our own program, no shell
            module_command(self._module, *numbers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment(self._settings),
            start_new_session=True,  # Ctrl-C is the worker's business
        )

    def _receive(self, message: dict[str, Any]) -> None:
        if message["kind"] != "progress":
            self._last_message = message
        elif self._progress.update(message["stage"], message["number"], message["figures"]):
            log.info("training_stage", training=self._training.id, stage=message["stage"])
            self._beat()

    def _beat(self) -> None:
        """Send a heartbeat. One that fails is only logged: the next one comes before the lease expires."""
        try:
            self._beat_once()
        except DatabaseUnavailable as error:
            log.warning("training_beat_failed", training=self._training.id, error=str(error))

    def _beat_once(self) -> None:
        stage, progress = self._progress.current()
        seconds = self._settings.train_lease_seconds
        try:
            with self._beating, transaction(self._engine) as connection:
                trainings.beat(connection, self._training, lease_seconds=seconds, stage=stage, progress=progress)
        except LeaseLost as error:
            self._handle_lost_lease(error)

    def _handle_lost_lease(self, error: LeaseLost) -> None:
        """Kill the child, unless it has settled the training itself: then it is only writing its report."""
        with reading(self._engine) as connection:
            row = trainings.find(connection, self._training.id)  # a restored database may lack it, or reuse its id
        same = row is not None and row.created_at == self._training.created_at
        if row is not None and same and row.state == "done" and row.lease_token == self._training.lease_token:
            return
        if not self._lost:
            log.warning("training_lost", training=self._training.id, error=str(error))
        self._lost = True
        self._kill()

    def _record_outcome(self, cause: str) -> None:
        kind, detail = self._last_message.get("kind"), str(self._last_message.get("words", ""))
        _, progress = self._progress.current()
        if kind == "done":
            log.info("training_done", training=self._training.id, verdict=detail)
        elif kind == "failed":
            log.warning("training_failed", training=self._training.id, reason=detail)
            report = self._last_message.get("report")
            self._write(lambda connection: trainings.settle(connection, self._training, error=detail, report=report))
        elif kind == "waits":
            log.warning("training_deferred", training=self._training.id, error=detail)
            self._write(lambda connection: self._wait(connection, detail, progress))
        elif kind == "stopped" or (self._stopping and kind is None):
            log.info("training_handed_back", training=self._training.id)
            self._write(lambda connection: trainings.give_back(connection, self._training))
        elif kind == "lost":
            log.warning("training_lost", training=self._training.id, error=detail)
        elif not self._lost:
            log.error("training_crashed", training=self._training.id, cause=cause)
            self._write(lambda connection: trainings.crashed(connection, self._training, how=cause, progress=progress))

    def _wait(self, connection: sa.Connection, reason: str, progress: dict[str, Any]) -> None:
        trainings.wait(connection, self._training, waiting_for=reason, progress=progress)

    def _write(self, statement: Callable[[sa.Connection], object]) -> None:
        """Write under the lease's token. If that fails, the lease expires and another worker takes the training."""
        deadline = time.monotonic() + self._settings.train_lease_seconds

        def write() -> None:
            with transaction(self._engine) as connection:
                statement(connection)

        try:
            retry_until(write, until=lambda: deadline, stop=self._stop)
        except LeaseLost as error:
            log.warning("training_lost", training=self._training.id, error=str(error))
        except DatabaseUnavailable as error:
            log.warning("training_result_not_saved", training=self._training.id, error=str(error))


def _lines_of(process: subprocess.Popen[bytes]) -> SimpleQueue[bytes | None]:
    """Lines from the child's stdout; None at its end."""
    inbox: SimpleQueue[bytes | None] = SimpleQueue()
    assert process.stdout is not None

    def read(stdout: IO[bytes]) -> None:
        with stdout:
            for line in stdout:
                inbox.put(line)
        inbox.put(None)

    threading.Thread(target=read, args=(process.stdout,), name="training-child", daemon=True).start()
    return inbox
