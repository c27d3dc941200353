"""The steps of a check: questions asked in turn, where each answer leads to a label or to the next question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NEXT = "next"  # where an answer leads that is no label yet
MAX_STEPS = 8
MAX_ANSWERS = 26


def _in_order(answers: object) -> object:
    """A TOML table as pairs: the order is the menu's, and two orders are two checks."""
    return list(answers.items()) if isinstance(answers, Mapping) else answers


class CheckStep(BaseModel):
    """One question; its answers in the order of the menu, each with where it leads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=3, max_length=4000)
    answers: Annotated[
        tuple[tuple[str, str], ...], BeforeValidator(_in_order), Field(min_length=2, max_length=MAX_ANSWERS)
    ]


def step_errors(steps: Sequence[CheckStep], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return (field, problem) for steps that are valid alone; a field is steps or steps.2.answers."""
    if not steps:
        return []
    problems = []
    if len(steps) < 2:
        problems.append(("steps", "must be two or more; for one question leave them out: the labels are its answers"))
    if NEXT in labels:
        problems.append(("labels", f"{NEXT} is where an answer leads: with steps no label can be called so"))
    for number, step in enumerate(steps, start=1):
        words = _wrong_with(step, labels, last=number == len(steps))
        problems += [(f"steps.{number}.answers", each) for each in words]
        if "\0" in step.prompt + "".join(map("".join, step.answers)):
            problems.append((f"steps.{number}.prompt", "holds a zero character"))
    ends = {to for step in steps for _, to in step.answers}
    if lost := [label for label in labels if label not in ends]:
        problems.append(("steps", f"no answer leads to {', '.join(lost[:20])}"))
    return problems


def _wrong_with(step: CheckStep, labels: Sequence[str], *, last: bool) -> list[str]:
    onward = [answer for answer, to in step.answers if to == NEXT]
    words = [
        f"{answer} leads to {to}, which is neither {NEXT} nor a label ({', '.join(labels[:20])})"
        for answer, to in step.answers
        if to != NEXT and to not in labels
    ]
    if len(dict(step.answers)) < len(step.answers):
        words.append("an answer is there twice")
    if last and onward:
        words.append(f"{onward[0]} leads to {NEXT}, but this is the last step")
    if not last and not onward:
        words.append(f"none leads to {NEXT}: the steps after it would never be asked")
    if not last and len(onward) == len(step.answers):
        words.append(f"all lead to {NEXT}: nothing would be learnt from it")
    return words


def step_line(lines: Sequence[str], field: str) -> int | None:
    """The line (from 1) that sets steps.2.answers, else the header of that step; None when there is none."""
    _, number, *inside = field.split(".")
    headers = [at for at, line in enumerate(lines, start=1) if re.match(r"\s*\[\[\s*[\"']?steps[\"']?\s*\]\]", line)]
    if int(number) > len(headers):
        return None
    first = headers[int(number) - 1]
    for at, line in enumerate(lines[first:], start=first + 1):
        if re.match(r"\s*\[\[", line):
            break
        if inside and re.match(rf"\s*(\[\s*steps\s*\.\s*)?[\"']?{re.escape(inside[0])}[\"']?\s*[\]=.]", line):
            return at
    return first


def step_field(inside: Sequence[Any]) -> str:
    """Pydantic's place below `steps`, (1, "answers", ...), as a field: steps.2.answers."""
    if not inside:
        return "steps"
    return ".".join(["steps", str(int(inside[0]) + 1), *map(str, inside[1:2])])
