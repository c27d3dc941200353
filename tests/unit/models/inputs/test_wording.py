"""Other wordings of a question change its words and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scanfleet.models.inputs.wording import names, variant
from scanfleet.models.types import Question, Step

BAG = Question(
    name="bag",
    prompt="Which threat does the bag hold?",
    labels=("knife", "gun", "none"),
    flags=frozenset({"gun", "knife"}),
    descriptions={"gun": "gun or gun part", "none": "no threat"},
    max_pixels=320 * 320,
)
FLOWERS = Question(name="flowers", prompt="Which flower?", labels=("rose", "tulip"), flags=frozenset())
OTHERS = [name for name in names() if name != "plain"]


def test_the_questions_own_words_come_first_and_stay_as_they_are() -> None:
    assert names()[0] == "plain"
    assert variant(BAG, "plain") == BAG


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("question", [BAG, FLOWERS])
def test_a_wording_adds_to_the_prompt_and_touches_nothing_else(question: Question, name: str) -> None:
    worded = variant(question, name)
    assert question.prompt in worded.prompt
    assert len(worded.prompt) > len(question.prompt)
    assert replace(worded, prompt=question.prompt) == question


def test_every_wording_is_another() -> None:
    assert len({variant(BAG, name).prompt for name in names()}) == len(names()) >= 4


def test_the_target_is_named_as_in_the_menu() -> None:
    assert "(knife or gun or gun part)" in variant(BAG, "locate-first").prompt
    assert "none" not in variant(BAG, "locate-first").prompt
    assert "no threat" not in variant(BAG, "locate-first").prompt


def test_a_question_without_flags_or_with_many_is_not_listed() -> None:
    many = tuple(f"species {number}" for number in range(102))
    wide = Question(name="w", prompt="Which?", labels=(*many, "none"), flags=frozenset(many))
    for question in (FLOWERS, wide):
        prompt = variant(question, "locate-first").prompt
        assert "what decides the answer" in prompt
        assert len(prompt) < 200


def test_of_a_question_in_steps_every_step_is_worded() -> None:
    steps = (
        Step(prompt="Is there a weapon?", answers=(("yes", "next"), ("no", "none"))),
        Step(prompt="Which one?", answers=(("a knife", "knife"), ("a gun", "gun"))),
    )
    worded = variant(replace(BAG, steps=steps), "locate-first")
    assert [step.answers for step in worded.steps] == [step.answers for step in steps]
    assert all(step.prompt.startswith("Locate the small target first") for step in worded.steps)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="choose one of plain, locate-first"):
        variant(BAG, "louder")
