"""The end of a worker that cannot continue: it logs the reason, and does not wait for the call that hangs."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable

import structlog

from scanfleet.errors import Retryable

log = structlog.get_logger()

EXIT_REASON_SECONDS = 2.0
EX_TEMPFAIL = 75  # sysexits.h: restart this process


def exit_hung(reason: str, *, save: Callable[[str], None]) -> None:
    """Log the reason and the stack of each thread, have `save` write the reason to the database, and exit with code 75.

    The leases are left to expire: an image may have caused the hang, and a batch whose lease expired is run alone the
    next time, image by image.
    """
    log.error("worker_hung", reason=reason)
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)

    def save_reason() -> None:
        try:
            save(reason)
        except Retryable as error:
            log.warning("exit_reason_not_saved", error=str(error))

    thread = threading.Thread(target=save_reason, name="exit-reason", daemon=True)
    thread.start()
    thread.join(EXIT_REASON_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EX_TEMPFAIL)


def exit_overdue() -> None:
    """Exit with code 75 when something still holds up the process after the drain, such as a database that is away."""
    log.error(
        "drain_timeout", reason="handing back took too long: batches still held are free when their leases expire"
    )
    sys.stderr.flush()
    os._exit(EX_TEMPFAIL)
