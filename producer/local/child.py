"""A child process of the worker package that answers in JSON lines: how `score` and `doctor` reach the model.

The producer knows its command line and its two streams only, and imports nothing of the worker.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from scanfleet.child_process import describe_exit, environment, json_lines, module_command, spawn
from scanfleet.config.settings import Settings
from scanfleet.errors import ScanfleetError, WorkerDied

STOP_SECONDS = 5.0  # after SIGTERM: the child holds nothing that could get lost


class ChildFailed(ScanfleetError):
    """The error that a child reported, with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Child:
    """A context: leaving it ends the process, also after an error or Ctrl-C.

    module: what `python -m` runs. The child writes to this process's stderr.
    """

    def __init__(self, settings: Settings, module: str, *arguments: str) -> None:
        quiet = {} if "log_level" in settings.model_fields_set else {"SCANFLEET_LOG_LEVEL": "warning"}
        command, env = module_command(module, *arguments), environment(settings) | quiet
        self._process = spawn(command, env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
        self._feed_error: Exception | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def feed(self, lines: Iterable[dict[str, Any]]) -> None:
        """Write these lines to the child's stdin, in a thread of their own, and close it. Call once.

        Writing ends early if the child has ended; `messages` raises the reason.
        """
        threading.Thread(target=self._write, args=(lines,), name="feeder", daemon=True).start()

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                for line in lines:
                    stdin.write(json.dumps(line).encode() + b"\n")
                    stdin.flush()
        except Exception as error:  # noqa: BLE001 - raised by `messages`, in the caller's thread
            self._feed_error = error

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the child's messages until it ends.

        Raises ChildFailed for an error that the child reports, WorkerDied, and the error of `feed`.
        """
        assert self._process.stdout is not None
        for message in json_lines(self._process.stdout):
            if message["kind"] == "fault":
                raise ChildFailed(message["words"], message["exit_code"])
            yield message
        code = self._process.wait()
        if self._feed_error is not None:
            raise self._feed_error
        if code:
            raise WorkerDied(f"the process of the model ended early ({describe_exit(code)})")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
