"""The child's side of a command: it reads settings and one request, writes messages, and ends with an exit code.

A message is a JSON object on a line of its own, on the child's original stdout.
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
    """Messages to the parent. Everybody else's stdout becomes stderr: a library that prints must not break a line."""

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
        """Report the error that ends this process, for the parent to print and to exit with."""
        self.send("fault", words=redact(str(error)), exit_code=error.exit_code)


# settings, the parent's first line, the lines after it, where to write messages
Serve = Callable[[Settings, dict[str, Any], IO[str], Reports], None]


def serve_request(serve: Serve) -> NoReturn:
    """Read the request on stdin, let `serve` answer it, and end this process."""
    reports = Reports.on_stdout()
    code = 0
    try:
        settings = load_settings()
        configure_logging(level=settings.log_level, json=settings.log_json)
        first = sys.stdin.readline()
        if first:  # empty: the parent was stopped before it wrote
            serve(settings, json.loads(first), sys.stdin, reports)
    except BrokenPipeError:
        code = 1  # the parent has ended
    except ScanfleetError as error:
        code = error.exit_code
        reports.fault(error)
    # A download that hangs would hold up the interpreter's own exit until its time-out.
    sys.stderr.flush()
    os._exit(code)
