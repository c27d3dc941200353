"""structlog for the whole program: static event names, values as fields, secrets taken out."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any

import structlog

# user:password@ in any URL, and the query string of any URL (presigned S3 links carry their signature there)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY = re.compile(r"(\w+://[^\s?'\"]+)\?[^\s'\"]+")


def redact(text: str) -> str:
    """Take credentials and query strings out of every URL in a text.

    >>> redact("redis://:pw@h:6379/0 and https://b/k?X-Amz-Signature=s")
    'redis://h:6379/0 and https://b/k'
    """
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", text))


def _redact_event(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: redact(value) if isinstance(value, str) else value for key, value in event.items()}


class _RedactingFormatter(logging.Formatter):
    """For the libraries that log through the standard library: celery, kombu, boto."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure_logging(*, level: str, json: bool) -> None:
    """Log to stderr: lines for people by default, one JSON object a line with `json`."""
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
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))
