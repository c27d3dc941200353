"""A patch for kombu: an acknowledgement that fails must end the connection, not be logged and forgotten.

`kombu.message.Message.ack_log_error` swallows connection errors. When the Redis connection broke during a task, the
prefetch slot of that message is then never freed: the worker stays alive but asks for no more messages (28 of 28 trials
without remote control, and always on a half-open connection). We raise the error, and make the consumer's loop
reconnect, which frees every slot. A test compares the hash of the patched function's source with KNOWN_SOURCE, and
fails when kombu changes it.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from typing import Any

import structlog
from kombu.asynchronous import get_event_loop
from kombu.message import Message

log = structlog.get_logger()

# SHA-256 over the source of Message.ack_log_error in kombu 5.7
KNOWN_SOURCE = "92c852ddae294815cdb48629be6cd23da4f1cdcc05b0e46a7e8705f52a326b54"
_ORIGINAL = Message.ack_log_error


def source_hash() -> str:
    """Return the hash of the patched function's source in the installed kombu."""
    return hashlib.sha256(inspect.getsource(_ORIGINAL).encode()).hexdigest()


def install() -> None:
    """Apply the patch. Repeated calls have no effect."""
    Message.ack_log_error = _ack_or_reconnect


def _ack_or_reconnect(
    self: Any, _logger: logging.Logger, errors: tuple[type[Exception], ...], multiple: bool = False
) -> None:
    try:
        self.ack(multiple=multiple)
    except errors as error:
        # The message is redelivered, or the reconciler notifies again; the state of the batch is in the database.
        log.warning("acknowledgement_failed", error=f"{type(error).__name__}: {error}")
        _reconnect(error)
        raise


def _reconnect(error: Exception) -> None:
    """Raise in the consumer's loop, which handles it as a broken connection."""
    loop = get_event_loop()
    if loop is not None:  # None: a transport without sockets
        loop.call_soon(_fail, error)


def _fail(error: Exception) -> None:
    raise error
