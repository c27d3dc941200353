"""Errors of a server that scores images. Each kind requires another reaction.

ModelUnavailable
├── EndpointBusy       no usable answer this time (network, overload, malformed answer): worth a retry
└── EndpointChanged    another model answers than at the start
ModelInvalid
└── EndpointMisused    address, key, model name or the server's options are wrong: a person must act
ImageUnsuitable
└── AnswerRefused      the server refused this one question: the caller must find out why
"""

from __future__ import annotations

import re

from scanfleet.models.errors import ImageUnsuitable, ModelInvalid, ModelUnavailable

LONGEST = 200  # characters of a server's text in an error message
_NOT_PRINTED = re.compile(r"[^\x20-\x7e\xa0-\uffff]+")


class EndpointBusy(ModelUnavailable):
    """No usable answer this time.

    Attributes:
        retry_after: seconds that the server asks to wait; None: not stated.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EndpointChanged(ModelUnavailable):
    """The server answers as another model than the identity of the scorer states."""


class EndpointMisused(ModelInvalid):
    """The server cannot work with these settings."""


class AnswerRefused(ImageUnsuitable):
    """No answer to this question with this image.

    Attributes:
        reason: "refused" (the request), "content_filter", "too_large" or "no_label" (the model answers in other words).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def in_one_line(text: str) -> str:
    """Make a server's text fit for a message: one line, without control characters, of limited length."""
    line = " ".join(_NOT_PRINTED.sub(" ", text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
