"""The tokens behind a question: its answer, and a second turn of the user."""

from __future__ import annotations

from jinja2 import TemplateError

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.inputs.prompts import LabelCode, Tokenizer, rendered_chat

WHY = (
    "Why is that the answer? Say in one short sentence what in the image decides it and where it is. "
    "If it is text, quote the text."
)
_ANSWER = "ANSWER-7f3a"  # in place of the letter, which other words contain
_NO_TURN = "the model's chat template writes no second turn of the user"


def further_turn(
    tokenizer: Tokenizer, answer: LabelCode, text: str, *, chat_template: str | None = None
) -> tuple[int, ...]:
    """Return the token ids of an answer, of the turn that follows it, and of the place of that turn's answer.

    They follow any turn that `models.inputs.prompts` renders; the answer is the token that it is taught.

    Args:
        tokenizer: The checkpoint's tokenizer.
        answer: Of the first turn.
        text: Of the second turn.
        chat_template: Template to use; None: the tokenizer's own.

    Raises:
        ModelInvalid: The template does not write such turns.
    """
    conversation = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]},
        {"role": "user", "content": [{"type": "text", "text": text}]},
    ]
    try:
        rendered = rendered_chat(tokenizer, conversation, chat_template=chat_template)
    except TemplateError as error:
        raise ModelInvalid(f"{_NO_TURN}: {' '.join(str(error).split())}") from error
    _, answered, end = rendered.partition(_ANSWER)
    if not answered or text not in end:
        raise ModelInvalid(_NO_TURN)
    return answer.answer_id, *tokenizer.encode(end, add_special_tokens=False)
