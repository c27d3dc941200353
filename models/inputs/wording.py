"""Other wordings of a question, by name. Pure.

To ask for the place before the answer helps models that write out what they see; a model that is read at its first
token has no such chance. No wording is better by itself: they exist to be measured.

A wording changes the prompt alone, so that labels, menu and pixel budget stay comparable. Calibrators belong to one
prompt, and an adapter answers the question that it was trained for: another wording needs its own of either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from scanfleet.models.types import Question

PLAIN = "plain"
MOST_NAMED = 8  # flagging labels that a wording repeats

# (prompt, target) -> prompt
_WORDINGS: Mapping[str, Callable[[str, str], str]] = MappingProxyType(
    {
        PLAIN: lambda prompt, _: prompt,
        "locate-first": lambda prompt, target: (
            f"Locate the small target first ({target}), then look closely at that place and answer. {prompt}"
        ),
        "small-parts": lambda prompt, target: (
            f"{prompt} What matters ({target}) may be very small, partly hidden, or near an edge of the image."
        ),
        "part-by-part": lambda prompt, _: (
            f"Go through the image part by part, from the upper left to the lower right, before you answer. {prompt}"
        ),
    }
)


def names() -> tuple[str, ...]:
    """Return the names of all wordings, the question's own first."""
    return tuple(_WORDINGS)


def variant(question: Question, name: str) -> Question:
    """Return the question in another wording; all steps of a question with steps are reworded.

    Raises:
        ValueError: There is no wording of this name.
    """
    if name not in _WORDINGS:
        raise ValueError(f"wording {name!r} is unknown; choose one of {', '.join(_WORDINGS)}")
    word, target = _WORDINGS[name], _target(question)
    steps = tuple(replace(step, prompt=word(step.prompt, target)) for step in question.steps)
    return replace(question, prompt=word(question.prompt, target), steps=steps)


def _target(question: Question) -> str:
    """Return the flagging labels as the menu words them."""
    words = [question.descriptions.get(label) or label for label in question.labels if label in question.flags]
    if not words or len(words) > MOST_NAMED:
        return "what decides the answer"
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
