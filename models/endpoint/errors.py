"""What can go wrong with a server that scores for us. Each kind asks for something else to be done.

ModelUnavailable
├── EndpointBusy       no usable answer this time (network, overload, nonsense): worth another try
└── EndpointChanged    another model answers than the one that was asked for at the start
ModelInvalid
└── EndpointMisused    address, key, model name or the server's options: a person must act
ImageUnsuitable
└── AnswerRefused      the server said no to this one question: whose fault it is, the caller must find out
"""

from __future__ import annotations

import re

from models.errors import ImageUnsuitable, ModelInvalid, ModelUnavailable

LONGEST = 200  # characters of a server's words in a message of ours
_NOT_PRINTED = re.compile(r"[^\x20-\x7e\xa0-\uffff]+")


class EndpointBusy(ModelUnavailable):
    """No usable answer this time. retry_after: seconds the server asks us to wait; None: it did not say."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EndpointChanged(ModelUnavailable):
    """The server answers as another model: what was said of its identity is no longer true."""


class EndpointMisused(ModelInvalid):
    """The server will not work with us as it and we are set up."""


class AnswerRefused(ImageUnsuitable):
    """No answer to this question with this image.

    reason: refused (the request), content_filter, too_large, no_label (the model answers in other words).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def in_one_line(text: str) -> str:
    """A server's words made fit for a message: one line, no control characters, not long."""
    line = " ".join(_NOT_PRINTED.sub(" ", text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
