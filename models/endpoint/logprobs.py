"""What an OpenAI-compatible server says of the first token of its answer, and the labels in it.

The format is that of POST /chat/completions with `logprobs` and `top_logprobs`. A server's answer is untrusted text:
what is not a list of tokens with probabilities that can exist is refused, never repaired.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from models.endpoint.errors import AnswerRefused, EndpointBusy, EndpointMisused, in_one_line
from models.scoring.margin import logsumexp

ROUNDING = 1e-3  # of a logprob over 0
OVER_ONE = 0.02  # that probabilities may sum to beyond 1, where a server computes them in 16 bits
NEVER = -1000.0  # some servers write -9999 for "not among those I looked at": such a token counts as not listed
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how sentencepiece names a token of one byte
_SPACES = str.maketrans({"Ġ": " ", "▁": " "})  # how byte-level BPE and sentencepiece write a space


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _Token(_Strict):
    token: str = Field(max_length=1000)
    logprob: FiniteFloat
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None = None

    @property
    def text(self) -> str:
        """What the token writes. The field `bytes` knows better than `token`, where a server fills it."""
        if self.bytes:
            try:
                return bytes(self.bytes).decode()
            except UnicodeDecodeError:
                return self.token
        byte = _BYTE.fullmatch(self.token)
        return chr(int(byte[1], 16)) if byte else self.token.translate(_SPACES)


class _Position(_Token):
    top_logprobs: Annotated[list[_Token], Field(max_length=1000)] | None = None


class _Logprobs(_Strict):
    content: list[_Position] | None = None


class _Message(_Strict):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Strict):
    message: _Message | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Completion(_Strict):
    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    system_fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The likeliest first tokens: (text, logprob), and who says so."""

    tokens: tuple[tuple[str, float], ...]
    model: str | None
    fingerprint: str | None

    @property
    def least(self) -> float:
        """No token that is not listed has a higher logprob."""
        return min(logprob for _, logprob in self.tokens)


def read_listing(body: bytes) -> Listing:
    """Raises EndpointBusy for what is no such answer, EndpointMisused for one without logprobs, AnswerRefused."""
    try:
        completion = _Completion.model_validate(json.loads(body))
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise EndpointBusy(f"the server's answer makes no sense at {where or 'its top'}: {fault['msg']}") from None
    except (ValueError, RecursionError):
        raise EndpointBusy(f"the server's answer is no JSON: {in_one_line(repr(body[:80]))}") from None
    choice = completion.choices[0]
    refusal = None if choice.message is None else choice.message.refusal
    if choice.finish_reason == "content_filter" or refusal:
        words = in_one_line(refusal or "its content filter ended the answer")
        raise AnswerRefused("content_filter", f"the server refuses: {words}")
    tokens = _listed(_first(choice))
    return Listing(tokens=tokens, model=completion.model, fingerprint=completion.system_fingerprint)


def read_labels(listing: Listing, codes: Sequence[str]) -> tuple[tuple[float, ...], float]:
    """(logprob of each label, mass). A label is written by its code or by a space and its code.

    A label that is not listed gets what no unlisted token exceeds, a hair less than the least listed logprob, so that
    a listed one always ranks above it. mass: what the listed labels have in all.
    Raises AnswerRefused when no label is listed.
    """
    spelled = {code: [token for token in listing.tokens if token[0] in (code, f" {code}")] for code in codes}
    for code, tokens in spelled.items():
        # Two tokens may read alike (sentencepiece's "A" with and without a space): then their probabilities differ.
        if len(set(tokens)) < len(tokens):
            raise EndpointBusy(f"the server lists the token {code} twice with the same probability")
    found = {code: logsumexp([logprob for _, logprob in tokens]) for code, tokens in spelled.items() if tokens}
    if not found:
        likeliest = max(listing.tokens, key=lambda token: token[1])[0]
        raise AnswerRefused("no_label", f"the model answers {in_one_line(repr(likeliest))} and lists no label's letter")
    bound = math.nextafter(listing.least, -math.inf)
    mass = min(1.0, math.fsum(math.exp(logprob) for logprob in found.values()))
    return tuple(found.get(code, bound) for code in codes), mass


def read_error(body: bytes) -> tuple[str, str]:
    """(code, message) of an error's body, in whichever of the usual forms; empty where it says nothing."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return "", in_one_line(body[:400].decode(errors="replace"))
    inner = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(inner, dict):
        return "", in_one_line(str(inner))
    code = " ".join(str(inner[name]) for name in ("code", "type") if inner.get(name))
    return in_one_line(code), in_one_line(str(inner.get("message") or inner.get("detail") or ""))


def _first(choice: _Choice) -> _Position:
    """The first token of the answer, with its rivals."""
    content = None if choice.logprobs is None else choice.logprobs.content
    if content is None:
        raise EndpointMisused("the server gives no logprobs: use a model and a server that do (docs/endpoint.md)")
    if not content:
        raise AnswerRefused("no_label", "the model ends its answer before the first token")
    if len(content[0].top_logprobs or ()) < 2:
        raise EndpointMisused("the server lists one token or none: it must heed top_logprobs (docs/endpoint.md)")
    return content[0]


def _listed(position: _Position) -> tuple[tuple[str, float], ...]:
    top = position.top_logprobs or []
    chosen = [] if any(_same(position, token) for token in top) else [position]
    every: list[_Token] = [*top, *chosen]
    tokens = [(token.text, min(token.logprob, 0.0)) for token in every if token.logprob > NEVER]
    if any(token.logprob > ROUNDING for token in every):
        raise EndpointBusy("the server gives a logprob over 0: no probability is over 1")
    if math.fsum(math.exp(logprob) for _, logprob in tokens) > 1.0 + OVER_ONE:
        raise EndpointBusy("the probabilities that the server lists sum to more than 1")
    if len(tokens) < 2:
        raise EndpointMisused("the server gives a probability to one token or none: let it list them untruncated")
    return tuple(tokens)


def _same(one: _Token, other: _Token) -> bool:
    return one.text == other.text and one.token == other.token
