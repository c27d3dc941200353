"""structlog for the whole program: static event names, values as fields, secrets removed."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

import structlog

from scanfleet.redaction import hide_variables, redact

__all__ = ["configure_logging", "redact"]


def _redact_event(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: _redact_value(value) for key, value in event.items()}


def _redact_value(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case dict():
            return {key: _redact_value(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redact_value(inner) for inner in value]
        case _:  # texts, paths, exceptions: everything that the renderer turns into text
            return redact(str(value))


class _RedactingFormatter(logging.Formatter):
    """For the libraries that log through the standard library: celery, kombu, boto."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure_logging(*, level: str, json: bool) -> None:
    """Log to stderr: lines for people by default, one JSON object per line with `json`."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    hide_variables(os.environ)
    sys.excepthook = _print_bug
    threading.excepthook = _print_thread_bug
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))


def _print_bug(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print an uncaught exception as Python does, without the secrets that a library put into its message."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _print_thread_bug(bug: threading.ExceptHookArgs) -> None:
    if not issubclass(bug.exc_type, SystemExit):
        _print_bug(bug.exc_type, bug.exc_value, bug.exc_traceback)
