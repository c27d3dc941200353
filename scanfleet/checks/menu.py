"""What a menu of answers must not hold: lines that the model, or a person, cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from scanfleet.checks.steps import CheckStep


def menu_problems(
    labels: Sequence[str], descriptions: Mapping[str, str], steps: Sequence[CheckStep]
) -> list[tuple[str, str]]:
    """Return (field, problem) for answers that are read alike, or that are letters of other answers."""
    if twins := _twins(labels):
        return [("labels", f"{twins} differ in case or spaces alone: rename one")]
    menus = [
        (
            "labels",
            [descriptions.get(label) or label for label in labels],
            "give it a line in [descriptions], or sort them",
        )
    ]
    if steps:  # the labels are not asked then
        answers = [[answer for answer, _ in step.answers] for step in steps]
        menus = [
            (f"steps.{number}.answers", each, "use a word, or sort them")
            for number, each in enumerate(answers, start=1)
        ]
    return [(field, words) for field, lines, remedy in menus for words in _confusing(lines, remedy)]


def _confusing(lines: Sequence[str], remedy: str) -> list[str]:
    if twins := _twins(lines):
        return [f"the answers {twins} read alike in the menu: reword one"]
    for letter, line in zip(ascii_uppercase, lines, strict=False):
        other = line.strip().upper()
        if len(other) == 1 and other != letter and other in ascii_uppercase[: len(lines)]:
            return [f'the answer {line} stands behind another letter of the menu ("{letter}) {line}"): {remedy}']
    return []


def _twins(words: Sequence[str]) -> str:
    """Return the first two that are equal up to case and spaces, joined; nothing if there are none."""
    seen: dict[str, str] = {}
    for word in words:
        first = seen.setdefault(" ".join(word.split()).casefold(), word)
        if first is not word:
            return f"{first!r} and {word!r}"
    return ""
