"""Read the first token of an OpenAI-compatible server's answer, and the labels in it; or the answer's words.

The format is that of POST /chat/completions with `logprobs` and `top_logprobs`. A server's answer is untrusted text:
anything but a list of tokens with possible probabilities is refused, never repaired.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from scanfleet.models.endpoint.errors import AnswerRefused, EndpointBusy, EndpointMisused, in_one_line
from scanfleet.models.scoring.margin import logsumexp

ROUNDING = 1e-3  # tolerance of a logprob over 0
OVER_ONE = 0.02  # tolerance of a sum of probabilities over 1, for servers that compute in 16 bits
NEVER = -1000.0  # some servers write -9999 for tokens that they did not score: these count as not listed
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # sentencepiece's name of a one-byte token
_SPACES = str.maketrans({"Ġ": " ", "▁": " "})  # the space in byte-level BPE and sentencepiece


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _Token(_Strict):
    token: str = Field(max_length=1000)
    logprob: FiniteFloat
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None = None

    @property
    def text(self) -> str:
        """The text of the token. The field `bytes` is more exact than `token`, if the server fills it."""
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
    """The likeliest first tokens.

    Attributes:
        tokens: (text, logprob) of each.
        model: the server's name of the model; None: not stated.
        fingerprint: of the server's configuration; None: not stated.
    """

    tokens: tuple[tuple[str, float], ...]
    model: str | None
    fingerprint: str | None

    @property
    def least(self) -> float:
        """The smallest listed logprob; no unlisted token exceeds it."""
        return min(logprob for _, logprob in self.tokens)


def read_listing(body: bytes) -> Listing:
    """Parse the body of an answer.

    Raises:
        EndpointBusy: the body is not such an answer.
        EndpointMisused: the answer has no logprobs.
        AnswerRefused: the server's content filter stopped the answer, or the answer is empty.
    """
    completion, choice = _completed(body)
    tokens = _listed(_first(choice))
    return Listing(tokens=tokens, model=completion.model, fingerprint=completion.system_fingerprint)


@dataclass(frozen=True, kw_only=True)
class Text:
    """What the model writes: untrusted.

    Attributes:
        text: as it was sent.
        cut: whether it was cut off at the most tokens.
        model: the server's name of the model; None: not stated.
    """

    text: str
    cut: bool
    model: str | None


def read_text(body: bytes) -> Text:
    """Parse the body of an answer in words.

    Raises:
        EndpointBusy: the body is not such an answer.
        AnswerRefused: the server's content filter stopped the answer.
    """
    completion, choice = _completed(body)
    text = None if choice.message is None else choice.message.content
    return Text(text=text or "", cut=choice.finish_reason == "length", model=completion.model)


def _completed(body: bytes) -> tuple[_Completion, _Choice]:
    """Return an answer and its first choice. Raises EndpointBusy, AnswerRefused."""
    try:
        completion = _Completion.model_validate(json.loads(body))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise EndpointBusy(f"the server's answer is malformed at {where or 'its top'}: {problem['msg']}") from None
    except (ValueError, RecursionError):
        raise EndpointBusy(f"the server's answer is not JSON: {in_one_line(repr(body[:80]))}") from None
    choice = completion.choices[0]
    refusal = None if choice.message is None else choice.message.refusal
    if choice.finish_reason == "content_filter" or refusal:
        detail = in_one_line(refusal or "its content filter stopped the answer")
        raise AnswerRefused("content_filter", f"the server refuses: {detail}")
    return completion, choice


def read_labels(listing: Listing, codes: Sequence[str]) -> tuple[tuple[float, ...], float]:
    """Read the labels' logprobs from a listing.

    A label is written as its code, or a space and its code. A label that is not listed gets the largest float under the
    smallest listed logprob, so a listed label always ranks above it.

    Args:
        listing: the likeliest first tokens.
        codes: of the labels.

    Returns:
        The logprob of each label, and the mass: the probability of all listed labels together, 0..1.

    Raises:
        AnswerRefused: no label is listed.
        EndpointBusy: a code is listed twice with the same probability.
    """
    spelled = {code: [token for token in listing.tokens if token[0] in (code, f" {code}")] for code in codes}
    for code, tokens in spelled.items():
        # Two tokens may have the same text (sentencepiece's "A" with and without a space) but not the same probability.
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
    """Return (code, message) of an error's body in any of the usual forms; empty strings where it has none."""
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
    """Return the first token of the answer, with its alternatives."""
    content = None if choice.logprobs is None else choice.logprobs.content
    if content is None:
        raise EndpointMisused("the server returns no logprobs: use a model and a server that do (docs/endpoint.md)")
    if not content:
        raise AnswerRefused("no_label", "the model's answer is empty")
    if len(content[0].top_logprobs or ()) < 2:
        raise EndpointMisused("the server lists fewer than two tokens: it must support top_logprobs (docs/endpoint.md)")
    return content[0]


def _listed(position: _Position) -> tuple[tuple[str, float], ...]:
    top = position.top_logprobs or []
    chosen = [] if any(_same(position, token) for token in top) else [position]
    every: list[_Token] = [*top, *chosen]
    tokens = [(token.text, min(token.logprob, 0.0)) for token in every if token.logprob > NEVER]
    if any(token.logprob > ROUNDING for token in every):
        raise EndpointBusy("the server returns a logprob over 0, which is not possible")
    if math.fsum(math.exp(logprob) for _, logprob in tokens) > 1.0 + OVER_ONE:
        raise EndpointBusy("the probabilities that the server lists sum to more than 1")
    if len(tokens) < 2:
        raise EndpointMisused(
            "the server gives a probability to fewer than two tokens: switch off its truncation of the list"
        )
    return tuple(tokens)


def _same(one: _Token, other: _Token) -> bool:
    return one.text == other.text and one.token == other.token
