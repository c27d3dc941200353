"""From a question to the tokens around the image, and the tokens that answer it.

One prefill scores an image: the label tokens are read at the position right after the generation prompt. Labels
therefore get letter codes, each of them one token at exactly that position. The score itself is the published form of
Qwen3-VL-Reranker: the last hidden state times the label rows of the head.

Image first, the keys and values of an image are the same for every question; instruction first, those of the
instruction are the same for every image. Qwen's maintainers say that most of their training data has the image first
(QwenLM/Qwen3-VL#1053), and LLaVA and InstructBLIP know nothing else.

Knows tokenizers and chat templates, but no tensors.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, Protocol

from jinja2 import TemplateError

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.types import Question


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used."""

    @property
    def unk_token_id(self) -> int | None: ...

    @property
    def bos_token(self) -> str | None: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One user turn with one image or two, up to the place of the answer.

    Attributes:
        text: The turn as the chat template renders it, with one placeholder for the image.
        before: Token ids before the placeholder.
        after: Token ids behind it, the generation prompt included. Both are the same for two images.
        between: Token ids between two images; None: the template takes one image.
    """

    text: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...] | None = None

    def ids(self, image: Sequence[int]) -> list[int]:
        """Return the token ids of the whole turn, with the image's tokens in place of the placeholder."""
        return [*self.before, *image, *self.after]


@dataclass(frozen=True, kw_only=True)
class LabelCode:
    """A label, its code in the menu and the single-token spellings of the code."""

    label: str
    code: str
    token_ids: tuple[int, ...]  # "A" first, then " A" where that is one token

    @property
    def answer_id(self) -> int:
        """The token that a trainer teaches the model to emit."""
        return self.token_ids[0]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question as one tokenizer renders it, for scoring and training alike."""

    turn: Turn
    codes: tuple[LabelCode, ...]  # in the question's label order

    @property
    def answer_ids(self) -> dict[str, int]:
        """Label -> the token that a trainer teaches for it."""
        return {code.label: code.answer_id for code in self.codes}

    @property
    def sha256(self) -> str:
        """Identity of the prompt for calibrators: equal tokens and label tokens give an equal hash."""
        parts = [self.turn.before, self.turn.after, [code.token_ids for code in self.codes]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def make_prompt(
    tokenizer: Tokenizer,
    question: Question,
    *,
    image_token: str,
    chat_template: str | None = None,
    spaced: bool = False,
) -> Prompt:
    """Render a question and choose its letter codes.

    Args:
        tokenizer: The checkpoint's tokenizer.
        question: The question to ask.
        image_token: Text of the image placeholder.
        chat_template: Template to use; None: the tokenizer's own.
        spaced: Whether a word right behind an image gets a space before it.

    Raises:
        ModelInvalid: The tokenizer has too few single-token codes or no usable chat template.
    """
    # The codes depend on the generation prompt alone, not on the menu: probe without one.
    render = partial(
        render_turn,
        tokenizer,
        image_first=question.image_first,
        image_token=image_token,
        chat_template=chat_template,
        spaced=spaced,
    )
    probe = render(question.prompt)
    spellings = _choose_codes(tokenizer, probe, len(question.labels), image_token=image_token)
    codes = tuple(
        LabelCode(label=label, code=code, token_ids=ids)
        for label, (code, ids) in zip(question.labels, spellings, strict=True)
    )
    return Prompt(turn=render(instruction(question, codes)), codes=codes)


def instruction(question: Question, codes: Sequence[LabelCode]) -> str:
    """Return the text of the user turn: the prompt, one line per label, and how to answer."""
    menu = [f"{code.code}) {question.descriptions.get(code.label) or code.label}" for code in codes]
    return "\n".join([question.prompt, *menu, "Answer with the letter."])


def render_turn(
    tokenizer: Tokenizer,
    text: str,
    *,
    image_first: bool,
    image_token: str,
    chat_template: str | None = None,
    spaced: bool = False,
) -> Turn:
    """Render one user turn of text and an image with the generation prompt, and split it at the image.

    Some templates put the image first whatever the order. The placeholder is a special token, so the text on either
    side tokenises independently of it. Rendering two images gives the tokens between them.

    Args:
        tokenizer: The checkpoint's tokenizer.
        text: Text of the turn.
        image_first: Whether the image stands before the text.
        image_token: Text of the image placeholder.
        chat_template: Template to use; None: the tokenizer's own.
        spaced: Whether a word right behind an image gets a space before it.

    Raises:
        ModelInvalid: The tokenizer does not know the placeholder, or the template does not write it exactly once.
    """
    images, words = ({"type": "image"},), ({"type": "text", "text": text},)
    content = [*images, *words] if image_first else [*words, *images]
    spaced_after = image_token if spaced else None

    def text_of(content: Sequence[dict[str, str]]) -> str:
        asked = [{"role": "user", "content": list(content)}]
        return rendered_chat(tokenizer, asked, chat_template=chat_template, spaced_after=spaced_after)

    rendered = text_of(content)
    image_id = tokenizer.convert_tokens_to_ids(image_token)
    if image_id is None or image_id == tokenizer.unk_token_id:
        raise ModelInvalid(f"the tokenizer has no {image_token} token; use the checkpoint's own tokenizer")
    ids = _encode(tokenizer, rendered, image_token)
    if ids.count(image_id) != 1:
        raise ModelInvalid(
            f"the chat template writes {image_token} {ids.count(image_id)} times into the prompt, not once; "
            "use a vision-language checkpoint and keep the placeholder out of the prompt text"
        )
    at = ids.index(image_id)
    turn = Turn(text=rendered, before=tuple(ids[:at]), after=tuple(ids[at + 1 :]))
    try:
        pair = text_of([*images, *content] if image_first else [*content, *images])
    except TemplateError:  # templates raise it for input that they were not written for
        return turn
    return replace(turn, between=_between(turn, _encode(tokenizer, pair, image_token), image_id))


TEMPLATE_SECONDS = 10.0  # a template takes milliseconds


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """End Python code of this thread that runs for longer, as a loop in a template. Raises ModelInvalid.

    A template is a stranger's program: jinja's sandbox bounds what it reaches, not how long it runs. The clock is read
    at each of its lines, so one operation is not ended on the way.
    """
    deadline = time.monotonic() + seconds

    def trace(_frame: object, _event: str, _argument: object) -> Any:
        if time.monotonic() > deadline:
            raise ModelInvalid(f"the chat template runs for longer than {seconds:.0f} s; use the checkpoint's own")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def rendered_chat(
    tokenizer: Tokenizer,
    conversation: list[dict[str, Any]],
    *,
    chat_template: str | None,
    spaced_after: str | None = None,
) -> str:
    """Render turns with the generation prompt, as the chat template does.

    Args:
        tokenizer: The checkpoint's tokenizer.
        conversation: Turns with `role` and `content`.
        chat_template: Template to use; None: the tokenizer's own.
        spaced_after: Text behind which a word gets a space before it.

    Raises:
        ModelInvalid: The template runs for too long.
        TemplateError: The template was not written for such turns.
    """
    with _bounded(TEMPLATE_SECONDS):
        rendered: str = tokenizer.apply_chat_template(
            conversation,
            tokenize=False,
            add_generation_prompt=True,
            chat_template=chat_template,
        )
    return re.sub(rf"{re.escape(spaced_after)}(?=[^\s<])", f"{spaced_after} ", rendered) if spaced_after else rendered


def _between(turn: Turn, pair: Sequence[int], image_id: int) -> tuple[int, ...] | None:
    """Return the tokens between the two images of `pair`.

    None unless everything else equals the turn with one image.
    """
    begin, end = len(turn.before), len(pair) - len(turn.after)
    images, around = tuple(pair[begin:end]), (tuple(pair[:begin]), tuple(pair[end:]))
    if around != (turn.before, turn.after) or images.count(image_id) != 2:
        return None
    return images[1:-1] if images[0] == images[-1] == image_id else None


def _encode(tokenizer: Tokenizer, rendered: str, image_token: str) -> list[int]:
    """Tokenise a rendered turn; the token that begins a text is added where the template does not write it.

    Where the image comes first, that token may follow it.
    """
    has_bos = bool(tokenizer.bos_token) and rendered.removeprefix(image_token).startswith(str(tokenizer.bos_token))
    return tokenizer.encode(rendered, add_special_tokens=not has_bos)


def _choose_codes(
    tokenizer: Tokenizer, turn: Turn, count: int, *, image_token: str
) -> list[tuple[str, tuple[int, ...]]]:
    """Return the first `count` candidate codes that are one token at the answer position and share no token."""
    chosen: list[tuple[str, tuple[int, ...]]] = []
    taken: set[int] = set()
    whole = turn.ids([tokenizer.convert_tokens_to_ids(image_token)])
    emitted = partial(_emitted_token, tokenizer, turn.text, whole, image_token=image_token)
    for code in _candidates():
        if len(chosen) == count:
            break
        bare = emitted(spelling=code)
        if bare is None or bare in taken:
            continue
        spaced = emitted(spelling=" " + code)
        ids = (bare,) if spaced is None or spaced == bare or spaced in taken else (bare, spaced)
        taken.update(ids)
        chosen.append((code, ids))
    if len(chosen) < count:
        raise ModelInvalid(
            f"the question has {count} labels but this tokenizer has only {len(chosen)} single-token letter "
            "codes; use fewer labels or another base model"
        )
    return chosen


def _candidates() -> Iterator[str]:
    yield from ascii_uppercase
    yield from ascii_lowercase
    yield from digits
    for first, second in product(ascii_uppercase, repeat=2):
        yield first + second


def _emitted_token(
    tokenizer: Tokenizer, rendered: str, whole: Sequence[int], *, image_token: str, spelling: str
) -> int | None:
    """Return the single token that `spelling` becomes right after the generation prompt, or None."""
    ids = _encode(tokenizer, rendered + spelling, image_token)
    if ids[:-1] != whole or ids[-1] == tokenizer.unk_token_id:
        return None
    return ids[-1]
