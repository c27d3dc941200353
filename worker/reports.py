"""What a child process of the command line tells its parent: JSON objects, one a line, on what was its stdout."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, Self

from scanfleet.errors import ScanfleetError
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
