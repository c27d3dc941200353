"""A checkpoint's chat template is a stranger's program."""

import sys
import time

import pytest

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.inputs import prompts
from scanfleet.models.inputs.prompts import render_turn
from tests.helpers.patience import patient

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{{ '' }}{% endfor %}{% endfor %}<image>"


class Templated:
    """The part of a tokenizer that renders, as transformers does it: with jinja's sandbox."""

    unk_token_id, bos_token = 0, None

    def __init__(self, template: str) -> None:
        self._template = template

    def apply_chat_template(self, conversation: object, **more: object) -> str:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        return ImmutableSandboxedEnvironment().from_string(self._template).render(messages=conversation)

    def convert_tokens_to_ids(self, token: str) -> int:
        return 1

    def encode(self, text: str, **_: object) -> list[int]:
        return [1 if part == "<image>" else 2 for part in text.replace("<image>", "|<image>|").split("|") if part]


def test_a_template_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "TEMPLATE_SECONDS", 0.3)
    traced, start = sys.gettrace(), time.monotonic()
    with pytest.raises(ModelInvalid, match="template"):
        render_turn(Templated(ENDLESS), "x", image_first=False, image_token="<image>")  # type: ignore[arg-type]
    assert time.monotonic() - start < patient(10)
    assert sys.gettrace() is traced


def test_another_is_rendered() -> None:
    turn = render_turn(Templated("a<image>b"), "x", image_first=False, image_token="<image>")  # type: ignore[arg-type]
    assert (turn.before, turn.after) == ((2,), (2,))
