"""What may come out of the queue: small JSON messages of a known task, and nothing around them.

Celery checks type and encoding, and after that trusts the shape: a body that is no list of three ends its consumer, the
message returns to the queue unacknowledged, and ends the next one, for ever. It also does what a message asks for
beside its task (callbacks, chords, a time to run at). So every message is looked at before Celery's own code does, and
what is no plain knock is dropped with a line in the log: the ledger knows every batch, nothing is lost with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import structlog
from celery.worker.consumer import Consumer

log = structlog.get_logger()

MAX_BODY_BYTES = 64 * 1024  # a knock has about 100
# Headers that make Celery do something else, or at another time; those that Celery always sends are empty then.
_ASIDE = ("eta", "expires", "group", "chord", "stamps", "stamped_headers", "shadow", "replaced_task_nesting")
_quiet = logging.getLogger(__name__)


class FilteringConsumer(Consumer):
    """Celery's consumer behind a door."""

    def create_task_handler(self, *how: Any, **more: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*how, **more)

        def on_message(message: Any) -> None:
            problem = fault_of(message, tasks=self.app.tasks) or _handled(handle, message)
            if problem is None:
                return
            log.warning("message_refused", error=problem)
            if not message.acknowledged:
                message.ack_log_error(_quiet, self.connection_errors)

        return on_message


def _handled(handle: Callable[[Any], None], message: Any) -> str | None:
    """Celery's own handler, and what it stumbled over."""
    try:
        handle(message)
    except (ValueError, TypeError, KeyError) as error:  # a broken connection raises others, which pass
        return f"Celery cannot read it ({type(error).__name__})"
    return None


def fault_of(message: Any, *, tasks: Collection[str]) -> str | None:
    """Why a message of kombu's is no knock, in words that quote nothing of it; None: it may be one."""
    if message.content_type != "application/json":
        return "its content type is not JSON"
    if len(message.body or b"") > MAX_BODY_BYTES:
        return f"its body has more than {MAX_BODY_BYTES} bytes"
    headers = message.headers
    if not isinstance(headers, dict) or not isinstance(headers.get("id"), str):
        return "its headers are not those of a task"
    task = headers.get("task")
    if not isinstance(task, str) or task not in tasks:
        return "it names no task of this worker"
    if any(headers.get(name) for name in _ASIDE) or headers.get("timelimit") not in (None, [None, None]):
        return "it asks for more than its task"
    return _fault_of_body(message)


def _fault_of_body(message: Any) -> str | None:
    try:
        body = message.decode()
    except Exception as error:  # noqa: BLE001 - decoders raise what they like over bytes from a stranger
        return f"its body cannot be decoded ({type(error).__name__})"
    match body:
        case [list(), dict(), dict() as beside] if not any(beside.values()):
            return None
        case [list(), dict(), dict()]:
            return "it asks for more than its task"
    return "its body is not that of a task"
