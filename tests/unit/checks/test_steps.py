"""Checks that ask in steps: what is refused, with line and field, and what makes two of them different."""

from __future__ import annotations

import pytest
import tomlkit

from scanfleet.checks import steps
from scanfleet.checks.check import Check, load_check, parse_check
from scanfleet.errors import BadCheck
from scanfleet.models import types
from scanfleet.worker.scoring.factory import question_of

GOOD = """name = "q"
prompt = "what?"
labels = ["a", "b", "c"]
flags = ["a"]

[[steps]]
prompt = "one?"
answers = { yes = "next", no = "c" }

[[steps]]
prompt = "two?"
[steps.answers]
yes = "a"
no = "b"
"""


def test_answers_keep_the_order_of_the_file() -> None:
    check = parse_check(GOOD, where="q.toml")
    assert check.steps[0].answers == (("yes", "next"), ("no", "c"))
    turned = parse_check(GOOD.replace('yes = "next", no = "c"', 'no = "c", yes = "next"'), where="q.toml")
    assert turned.hash != check.hash
    assert Check.model_validate(check.model_dump(mode="json")) == check


def test_a_check_without_steps_is_stored_and_hashed_as_before_there_were_any() -> None:
    overlay = load_check("overlay")
    assert overlay.hash == "5b7a8b7ff1a0be1245b47b7b858edbbcc63eb3a33de0231b929d9ec5c2354691"
    assert "steps" not in overlay.model_dump(mode="json")


def test_both_sides_call_the_next_step_the_same() -> None:
    assert steps.NEXT == types.NEXT
    asked = question_of(parse_check(GOOD, where="q.toml"))
    assert [step.answers for step in asked.steps] == [(("yes", "next"), ("no", "c")), (("yes", "a"), ("no", "b"))]


def test_the_built_in_pair_has_the_same_labels_and_another_identity() -> None:
    once, stepwise = load_check("overlay-once"), load_check("overlay-steps")
    assert (once.labels, once.flags, once.prompt) == (stepwise.labels, stepwise.flags, stepwise.prompt)
    assert once.hash != stepwise.hash
    assert not once.steps
    assert (once.prompt, once.labels) == (load_check("overlay").prompt, load_check("overlay").labels)


def test_a_shown_check_is_a_check_file() -> None:
    check = load_check("overlay-steps")
    text = tomlkit.dumps(check.as_file())
    assert 'yes = "next"' in text
    assert parse_check(text, where="shown") == check


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('no = "c" }', 'no = "d" }', "8: steps.1.answers: no leads to d, which is neither next nor a label (a, b, c)"),
        ('no = "b"', 'no = "next"', "12: steps.2.answers: no leads to next, but this is the last step"),
        ('"next", no', '"b", no', "8: steps.1.answers: none leads to next: the steps after it would never be asked"),
        ('no = "c"', 'no = "next"', "8: steps.1.answers: all lead to next: nothing would be learnt from it"),
        ('prompt = "two?"\n', "", "10: steps.2.prompt: is missing"),
        ('prompt = "two?"', 'prompts = "two?"', "11: steps.2.prompts: is not known (did you mean prompt?)"),
        ('no = "c" }', "no = 3 }", "8: steps.1.answers: must be text"),
        (', no = "c" }', " }", "8: steps.1.answers: must have at least 2 entries"),
        ('{ yes = "next", no = "c" }', "4", "8: steps.1.answers: must be a table of answer = label"),
        ('no = "b"', 'no = "a"', "6: steps: no answer leads to b"),
        ('"c"]', '"next"]', "3: labels: next is where an answer leads"),
        ('prompt = "one?"', 'prompt = "\\u0000 one?"', "7: steps.1.prompt: holds a zero character"),
        ('[[steps]]\nprompt = "one?"\nanswers = { yes = "next", no = "c" }\n', "", "7: steps: must be two or more"),
    ],
)
def test_a_problem_is_reported_with_its_line_and_field(old: str, new: str, line: str) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(BadCheck) as caught:
        parse_check(GOOD.replace(old, new), where="q.toml")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
