"""Accepts from the queue only small JSON messages of a known task that ask for nothing but the task.

Celery checks type and encoding, and then trusts the shape: a body that is not a list of three ends its consumer, and
the message returns to the queue unacknowledged and ends the next consumer, forever. Celery also obeys other requests
in a message (callbacks, chords, a time to run at). So every message is checked before Celery handles it, and anything
but a plain notification is logged and dropped. The database holds every batch, so nothing is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import structlog
from celery.worker.consumer import Consumer

log = structlog.get_logger()

MAX_BODY_BYTES = 64 * 1024  # a notification has about 100
# Headers that make Celery do something else, or at another time. Of those that it always sends, these are empty.
_ASIDE = ("eta", "expires", "group", "chord", "stamps", "stamped_headers", "shadow", "replaced_task_nesting")
_quiet = logging.getLogger(__name__)


class FilteringConsumer(Consumer):
    """Celery's consumer behind the filter."""

    def create_task_handler(self, *how: Any, **more: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*how, **more)

        def on_message(message: Any) -> None:
            problem = problem_of(message, tasks=self.app.tasks) or _handled(handle, message)
            if problem is None:
                return
            log.warning("message_refused", error=problem)
            if not message.acknowledged:
                message.ack_log_error(_quiet, self.connection_errors)

        return on_message

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop a message that kombu cannot read, as a compressed one. Celery would log its body and headers."""
        log.warning("message_refused", error=f"it cannot be decoded ({type(exc).__name__})")
        message.ack_log_error(_quiet, self.connection_errors)


def _handled(handle: Callable[[Any], None], message: Any) -> str | None:
    """Call Celery's own handler. Return why it could not read the message; None if it could."""
    try:
        handle(message)
    except (ValueError, TypeError, KeyError) as error:  # a broken connection raises others, which pass
        return f"Celery cannot read it ({type(error).__name__})"
    return None


def problem_of(message: Any, *, tasks: Collection[str]) -> str | None:
    """Return why a kombu message is not a notification, without quoting from it; None if it may be one."""
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
    return _problem_of_body(message)


def _problem_of_body(message: Any) -> str | None:
    try:
        body = message.decode()
    except Exception as error:  # noqa: BLE001 - decoders raise any error on untrusted bytes
        return f"its body cannot be decoded ({type(error).__name__})"
    match body:
        case [list(), dict(), dict() as beside] if not any(beside.values()):
            return None
        case [list(), dict(), dict()]:
            return "it asks for more than its task"
    return "its body is not that of a task"
