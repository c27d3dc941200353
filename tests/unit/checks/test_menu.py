"""Answers that a model cannot tell apart: refused in a file, readable where they are stored."""

from __future__ import annotations

import pytest

from scanfleet.checks.check import Check, builtin_names, load_check, parse_check
from scanfleet.errors import BadCheck

HEAD = 'name = "q"\nprompt = "which?"\n'
STEPS = """labels = ["x", "y"]
[[steps]]
prompt = "one?"
answers = { B = "next", A = "x" }
[[steps]]
prompt = "two?"
answers = { yes = "x", no = "y" }
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('labels = ["Text", "text"]', r"q\.toml:3: labels: 'Text' and 'text' differ in case or spaces alone"),
        ('labels = ["no  text", " no text"]', r"q\.toml:3: labels: 'no  text' and ' no text' differ"),
        (
            'labels = ["a1", "a2"]\ndescriptions = { a1 = "Red", a2 = "red " }',
            "'Red' and 'red ' read alike in the menu",
        ),
        (
            'labels = ["B", "A"]',
            r'q\.toml:3: labels: the answer B stands behind another letter of the menu \("A\) B"\)',
        ),
        ('labels = ["one", "a"]', r'the answer a stands behind another letter of the menu \("B\) a"\)'),
        (STEPS, r"q\.toml:6: steps\.1\.answers: the answer B stands behind another letter"),
    ],
)
def test_answers_that_are_read_alike_are_refused_by_line(body: str, words: str) -> None:
    with pytest.raises(BadCheck, match=words):
        parse_check(HEAD + body, where="q.toml")


@pytest.mark.parametrize(
    "body",
    [
        'labels = ["yes", "no"]',
        'labels = ["A", "B"]',  # each behind its own letter
        'labels = ["1", "2"]',
        'labels = ["X", "Y"]',  # no letters of a menu of two
        'labels = ["B", "A"]\ndescriptions = { A = "grade A", B = "grade B" }',
    ],
)
def test_answers_that_can_be_told_apart_are_accepted(body: str) -> None:
    parse_check(HEAD + body, where="q.toml")


def test_a_stored_check_with_such_answers_can_still_be_read() -> None:
    held = {"name": "q", "prompt": "which?", "labels": ["B", "A", "a"]}
    assert Check.model_validate(held).labels == ("B", "A", "a")


def test_the_checks_that_ship_pass() -> None:
    assert [load_check(name).name for name in builtin_names()] == builtin_names()
