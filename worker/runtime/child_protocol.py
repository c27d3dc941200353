"""How a child process of the command line begins and ends: settings, log, one question, answers, an exit code.

What a child process of the command line tells its parent: JSON objects, one a line, on what was its stdout.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, NoReturn, Self

from scanfleet.config.settings import Settings, load_settings
from scanfleet.errors import ScanfleetError
from scanfleet.log import configure_logging
from scanfleet.redaction import redact


class Reports:
    """From now on stdout is stderr to everybody else: libraries that print must not talk into the stream."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace")
        self._lock = threading.Lock()

    @classmethod
    def on_stdout(cls) -> Self:
        sys.stdout.flush()
        own = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(own)

    def send(self, kind: str, **fields: Any) -> None:
        """Raises BrokenPipeError once the parent has gone."""
        line = json.dumps({"kind": kind, **fields}, ensure_ascii=False, allow_nan=False)
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()

    def fault(self, error: ScanfleetError) -> None:
        """Why it ends before its time, for the parent to say and to exit with."""
        self.send("fault", words=redact(str(error)), exit_code=error.exit_code)


# settings, the first line that the parent sent, the lines after it, where to answer
Serve = Callable[[Settings, dict[str, Any], IO[str], Reports], None]


def answer(serve: Serve) -> NoReturn:
    """Answer the question on stdin, then end this process."""
    reports = Reports.on_stdout()
    code = 0
    try:
        settings = load_settings()
        configure_logging(level=settings.log_level, json=settings.log_json)
        first = sys.stdin.readline()
        if first:  # else the parent was stopped before it asked
            serve(settings, json.loads(first), sys.stdin, reports)
    except BrokenPipeError:
        code = 1  # nobody listens any more
    except ScanfleetError as error:
        code = error.exit_code
        reports.fault(error)
    # A download that hangs would hold up the interpreter's own exit until its time-out.
    sys.stderr.flush()
    os._exit(code)
