"""How a child process of the command line begins and ends: settings, log, one question, answers, an exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any, NoReturn

from scanfleet.errors import ScanfleetError
from scanfleet.log import configure_logging
from scanfleet.settings import Settings, load_settings
from worker.reports import Reports

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
