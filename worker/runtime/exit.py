"""How a worker that cannot go on ends itself: it says why, and does not wait for what hangs."""

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
EX_TEMPFAIL = 75  # sysexits.h: start me again


def exit_hung(why: str, *, last_words: Callable[[str], None]) -> None:
    """Log the reason and where each thread stands, let `last_words` write it to the ledger, and exit with code 75.

    The leases are left to run out. Whatever hangs may be the fault of an image, and a batch whose lease ran out is run
    alone the next time, image by image.
    """
    log.error("worker_hung", why=why)
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)

    def speak() -> None:
        try:
            last_words(why)
        except Retryable as error:
            log.warning("exit_reason_not_saved", error=str(error))

    speaker = threading.Thread(target=speak, name="last-words", daemon=True)
    speaker.start()
    speaker.join(EXIT_REASON_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EX_TEMPFAIL)


def exit_overdue() -> None:
    """The drain is over and something still holds up the end, a database or a broker that is away: end all the same."""
    log.error("drain_timeout", why="handing back took too long: what is still held is free when its lease runs out")
    sys.stderr.flush()
    os._exit(EX_TEMPFAIL)
