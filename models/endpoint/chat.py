"""One question with one image to an OpenAI-compatible server, and the list of first tokens it answers with.

The request asks for one token and the logprobs of the likeliest ones: that costs the server one prefill, as
`models.scoring.prefill` does here.
"""

from __future__ import annotations

import email.utils
import json
import math
import time
from dataclasses import dataclass
from typing import Any

from models.endpoint.errors import AnswerRefused, EndpointBusy, EndpointMisused
from models.endpoint.http import HttpAnswer, HttpChannel
from models.endpoint.logprobs import Listing, read_error, read_listing

PATH = "/chat/completions"
OVERLOADED = (408, 409, 425, 429)  # beside 5xx: the same request may be answered later
REFUSED = (400, 413, 415, 422)  # of this request; whether the image is at fault is another question
FILTERS = ("content_filter", "content_policy", "moderation", "ResponsibleAI")  # in the code of an error


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """What is asked of a server: its model by its name, and how many tokens it lists."""

    model: str
    top_logprobs: int = 20


class ChatServer:
    """Thread-safe. `key` is taken out of whatever the server says."""

    def __init__(self, *, channel: HttpChannel, options: RequestOptions, key: str | None = None) -> None:
        self._channel = channel
        self._options = options
        self._key = key
        self._limit = "max_tokens"  # newer hosted models want another name, and say so

    def ask(self, text: str, image_url: str) -> Listing:
        """Raises EndpointBusy, EndpointMisused, AnswerRefused."""
        answer = self._channel.post(PATH, self._request(text, image_url))
        if answer.status == 400 and self._wants_other_limit(answer):
            self._limit = "max_completion_tokens"
            answer = self._channel.post(PATH, self._request(text, image_url))
        if answer.status == 200:
            return read_listing(answer.body)
        raise self._fault(answer)

    def _request(self, text: str, image_url: str) -> bytes:
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image_url}}]
        fields: dict[str, Any] = {
            "model": self._options.model,
            "messages": [{"role": "user", "content": content}],
            self._limit: 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": self._options.top_logprobs,
        }
        return json.dumps(fields).encode()

    def _wants_other_limit(self, answer: HttpAnswer) -> bool:
        return self._limit == "max_tokens" and "max_completion_tokens" in read_error(answer.body)[1]

    def _fault(self, answer: HttpAnswer) -> Exception:
        code, words = (self._without_key(part) for part in read_error(answer.body))
        said = f"status {answer.status}" + (f": {words}" if words else "")
        if answer.status in REFUSED:
            filtered = any(mark.lower() in code.lower() for mark in FILTERS)
            reason = "content_filter" if filtered else "too_large" if answer.status == 413 else "refused"
            return AnswerRefused(reason, f"the server refuses the request ({said})")
        if answer.status in OVERLOADED or answer.status >= 500:
            seconds = retry_delay_seconds(answer.retry_after, now=time.time())
            return EndpointBusy(f"the server cannot answer now ({said})", retry_after=seconds)
        if 200 <= answer.status < 300:
            return EndpointBusy(f"the server answers without an answer ({said})")
        return EndpointMisused(f"{_advice(answer.status)} ({said})")

    def _without_key(self, words: str) -> str:
        return words.replace(self._key, "***") if self._key else words


def retry_delay_seconds(retry_after: str | None, *, now: float) -> float | None:
    """The header Retry-After (RFC 9110, 10.2.3), seconds or a date; None where it says nothing of use."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _advice(status: int) -> str:
    match status:
        case 401:
            return "the server does not accept our key: set endpoint_key"
        case 402:
            return "the server wants to be paid: see to the account behind endpoint_key"
        case 403:
            return "the server lets us not in: see what endpoint_key may do"
        case 404 | 405:
            return "the server has no such model or address: check endpoint_url (it ends in /v1) and the model's name"
        case _ if 300 <= status < 400:
            return "the server sends us elsewhere, where our key does not go: write the right address in endpoint_url"
        case _:
            return "the server does not take our requests: check endpoint_url and the model's name"
