"""Ask an OpenAI-compatible server one question with one image, and read its list of first tokens.

The request asks for one token and the logprobs of the likeliest ones. That costs the server one prefill, as
`models.scoring.prefill` does here.
"""

from __future__ import annotations

import email.utils
import json
import math
import time
from dataclasses import dataclass
from typing import Any

from scanfleet.models.endpoint.errors import AnswerRefused, EndpointBusy, EndpointMisused
from scanfleet.models.endpoint.http import HttpAnswer, HttpChannel
from scanfleet.models.endpoint.logprobs import Listing, Text, read_error, read_listing, read_text

PATH = "/chat/completions"
OVERLOADED = (408, 409, 425, 429)  # besides 5xx: the same request may succeed later
REFUSED = (400, 413, 415, 422)  # this request; the caller finds out whether the image is the cause
FILTERS = ("content_filter", "content_policy", "moderation", "ResponsibleAI")  # in the code of an error


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """The fixed part of a request.

    Attributes:
        model: its name on the server.
        top_logprobs: number of likeliest tokens that the server lists.
    """

    model: str
    top_logprobs: int = 20


class ChatServer:
    """Sends questions to one server. Thread-safe.

    Args:
        channel: the connection to the server.
        options: of every request.
        key: removed from all messages of the server.
    """

    def __init__(self, *, channel: HttpChannel, options: RequestOptions, key: str | None = None) -> None:
        self._channel = channel
        self._options = options
        self._key = key
        self._limit = "max_tokens"  # newer hosted models require another name and report it

    def ask(self, text: str, image_url: str, *, image_first: bool = True) -> Listing:
        """Ask one question.

        Args:
            text: the instruction.
            image_url: a data URL.
            image_first: whether the image stands before the instruction.

        Raises:
            EndpointBusy: the server gave no usable answer this time.
            EndpointMisused: a setting is wrong.
            AnswerRefused: the server refused this request.
        """
        listed = {"logprobs": True, "top_logprobs": self._options.top_logprobs}
        return read_listing(self._post([_asked(text, image_url, image_first)], listed, tokens=1))

    def tell(
        self, text: str, image_url: str, *, answer: str, then: str, max_tokens: int, image_first: bool = True
    ) -> Text:
        """Ask a second question, behind the answer to the first one.

        Args:
            text: the instruction of the first question.
            image_url: a data URL.
            answer: to the first question.
            then: the second question.
            max_tokens: of the second answer.
            image_first: whether the image stands before the instruction.

        Raises:
            EndpointBusy, EndpointMisused, AnswerRefused: as `ask`.
        """
        told = [{"role": "assistant", "content": answer}, {"role": "user", "content": then}]
        return read_text(self._post([_asked(text, image_url, image_first), *told], {}, tokens=max_tokens))

    def _post(self, messages: list[dict[str, Any]], options: dict[str, Any], *, tokens: int) -> bytes:
        """Return the body of an answer of at most `tokens` tokens."""
        fields = {"model": self._options.model, "messages": messages, "temperature": 0, **options}
        answer = self._channel.post(PATH, json.dumps(fields | {self._limit: tokens}).encode())
        if answer.status == 400 and self._wants_other_limit(answer):
            self._limit = "max_completion_tokens"
            answer = self._channel.post(PATH, json.dumps(fields | {self._limit: tokens}).encode())
        if answer.status == 200:
            return answer.body
        raise self._error(answer)

    def _wants_other_limit(self, answer: HttpAnswer) -> bool:
        return self._limit == "max_tokens" and "max_completion_tokens" in read_error(answer.body)[1]

    def _error(self, answer: HttpAnswer) -> Exception:
        code, message = (self._without_key(part) for part in read_error(answer.body))
        detail = f"status {answer.status}" + (f": {message}" if message else "")
        if answer.status in REFUSED:
            filtered = any(mark.lower() in code.lower() for mark in FILTERS)
            reason = "content_filter" if filtered else "too_large" if answer.status == 413 else "refused"
            return AnswerRefused(reason, f"the server refuses the request ({detail})")
        if answer.status in OVERLOADED or answer.status >= 500:
            seconds = retry_delay_seconds(answer.retry_after, now=time.time())
            return EndpointBusy(f"the server is not available now ({detail})", retry_after=seconds)
        if 200 <= answer.status < 300:
            return EndpointBusy(f"the server sent no answer ({detail})")
        return EndpointMisused(f"{_advice(answer.status)} ({detail})")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _asked(text: str, image_url: str, image_first: bool) -> dict[str, Any]:
    instruction: dict[str, Any] = {"type": "text", "text": text}
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": image_url}}
    return {"role": "user", "content": [image, instruction] if image_first else [instruction, image]}


def retry_delay_seconds(retry_after: str | None, *, now: float) -> float | None:
    """Parse the header Retry-After (RFC 9110, 10.2.3), seconds or a date.

    Args:
        retry_after: the header; None: absent.
        now: seconds since the epoch.

    Returns:
        Seconds, 0 or more; None if the header is absent or malformed.
    """
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
            return "the server does not accept the key: set endpoint_key"
        case 402:
            return "the server demands payment: check the account of endpoint_key"
        case 403:
            return "the server denies access: check the permissions of endpoint_key"
        case 404 | 405:
            return "the server has no such model or address: check endpoint_url (it ends in /v1) and the model's name"
        case _ if 300 <= status < 400:
            return "the server redirects, and redirects are not followed: set endpoint_url to the final address"
        case _:
            return "the server does not accept the request: check endpoint_url and the model's name"
