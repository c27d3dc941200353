"""Questions in turn, against two plain scorers and arithmetic spelled out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any, get_args

import pytest
from PIL import Image

from scanfleet.models import factory
from scanfleet.models.fake import FakePrepared, FakeScorer
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.scoring.margin import margin_of
from scanfleet.models.scoring.sequential import FLOOR, SequentialScorer, in_steps, step_questions
from scanfleet.models.types import NEXT, Order, Question, Reading, Step
from tests.unit.models import tiny_models as tiny

QUESTION = Question(
    name="overlay-steps",
    prompt="Is there text, and of which kind?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    max_pixels=100 * 100,
    steps=(
        Step(prompt="Is there any text?", answers=(("yes", NEXT), ("no", "none"))),
        Step(prompt="Was it added on top?", answers=(("yes", "overlay"), ("no", "natural"))),
    ),
)


class Scripted(FakeScorer):
    """Says of each image what was written down for it, by how many visual tokens it has."""

    def __init__(self, question: Question, logits: dict[int, tuple[float, ...]], *, mass: float = 0.99) -> None:
        super().__init__(question=question)
        self._logits = logits
        self.seen: list[list[int]] = []
        self._share = mass

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        widths = [image.visual_tokens for image in prepared]
        self.seen.append(widths)
        return [
            Reading(margin=0.0, logits=self._logits[width], mass=self._share, visual_tokens=width) for width in widths
        ]


def scripted(
    first: dict[int, tuple[float, ...]], second: dict[int, tuple[float, ...]]
) -> tuple[SequentialScorer, Scripted, Scripted]:
    one, two = (
        Scripted(step, logits, mass=mass)
        for step, logits, mass in zip(step_questions(QUESTION), (first, second), (0.97, 0.93), strict=True)
    )
    return SequentialScorer(question=QUESTION, scorers=[one, two]), one, two  # type: ignore[list-item]


def image(number: int) -> Image.Image:
    return Image.new("RGB", (28 * number, 28))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")
    return load_base(str(folder), precision="fp32", device="cpu")


@pytest.mark.parametrize("together", [partial(factory.together), None])
@pytest.mark.parametrize("order", get_args(Order))
def test_it_equals_two_plain_scorers_multiplied(base: BaseModel, order: Order, together: Any) -> None:
    asked = replace(QUESTION, order=order)
    first, second = (factory.scorer(base, question) for question in step_questions(asked))
    passes = [partial(together, base)] if together else []
    scorer = in_steps(asked, partial(factory.scorer, base), *passes)
    assert (scorer._together is not None) == bool(together and order == "image-first")
    images = [tiny.picture(60 + 20 * n, 90, n) for n in range(4)]
    for found, picture in zip(scorer.score([scorer.prepare(one) for one in images]), images, strict=True):
        (text,), (added,) = (plain.score([plain.prepare(picture)]) for plain in (first, second))
        p_text = 1 / (1 + math.exp(text.logits[1] - text.logits[0]))
        p_added = 1 / (1 + math.exp(added.logits[1] - added.logits[0]))
        shares = (p_text * p_added, p_text * (1 - p_added), 1 - p_text)
        assert [math.exp(logit) for logit in found.logits] == pytest.approx(shares, abs=1e-5)
        assert found.margin == pytest.approx(math.log(shares[0] / (shares[1] + shares[2])), abs=1e-4)
        assert found.mass == pytest.approx(min(text.mass, added.mass), rel=1e-4)
        assert found.visual_tokens == text.visual_tokens


def test_neighbours_and_order_make_no_difference(base: BaseModel) -> None:
    scorer = in_steps(QUESTION, partial(factory.scorer, base))
    items = [scorer.prepare(tiny.picture(60 + 20 * n, 90, n)) for n in range(3)]
    alone = [scorer.score([item])[0].margin for item in items]
    assert max(alone) - min(alone) > 0.1, "images that score alike would prove nothing"
    for order in permutations(range(3)):
        together = [reading.margin for reading in scorer.score([items[at] for at in order])]
        assert together == pytest.approx([alone[at] for at in order], abs=1e-4)


def test_the_second_question_is_asked_only_of_images_that_get_there() -> None:
    just, hardly = math.log(FLOOR / (1 - FLOOR)) + 0.01, math.log(FLOOR / (1 - FLOOR)) - 0.01
    scorer, one, two = scripted({1: (2.0, 0.0), 2: (hardly, 0.0), 3: (just, 0.0)}, {1: (1.0, 0.0), 3: (-1.0, 0.0)})
    readings = scorer.score([scorer.prepare(image(n)) for n in (1, 2, 3)])
    assert one.seen == [[1, 2, 3]]
    assert two.seen == [[1, 3]]
    assert [reading.mass for reading in readings] == [0.93, 0.97, 0.93]


def test_what_is_not_asked_is_bounded_from_above() -> None:
    logit = math.log(FLOOR) - 1.0
    scorer, _, _ = scripted({1: (logit, 0.0)}, {})
    (found,) = scorer.score([scorer.prepare(image(1))])
    reach = math.exp(logit) / (1 + math.exp(logit))
    assert [math.exp(each) for each in found.logits] == pytest.approx([reach, reach, 1 - reach])
    assert found.margin == pytest.approx(math.log(reach) - math.log(1.0))
    assert found.margin < math.log(FLOOR)
    for added in (0.0, 0.3, 0.999):  # whatever the second question would have said
        exact = math.log(max(reach * added, 1e-300)) - math.log(1 - reach * added)
        assert exact <= found.margin + 1e-9


def test_no_image_that_gets_there_means_no_second_forward() -> None:
    scorer, one, two = scripted({1: (-20.0, 0.0)}, {})
    scorer.score([scorer.prepare(image(1))])
    assert (len(one.seen), len(two.seen)) == (1, 0)
    assert scorer.score([]) == []


def test_several_paths_to_a_label_and_three_steps_add_up() -> None:
    question = Question(
        name="q",
        prompt="?",
        labels=("a", "b"),
        flags=frozenset(),
        steps=(
            Step(prompt="1?", answers=(("x", NEXT), ("y", "a"), ("z", "b"))),
            Step(prompt="2?", answers=(("x", NEXT), ("y", "a"))),
            Step(prompt="3?", answers=(("x", "a"), ("y", "b"))),
        ),
    )
    shares = ((0.5, 0.3, 0.2), (0.4, 0.6), (0.25, 0.75))
    scorers = [
        Scripted(step, {1: tuple(map(math.log, given))})
        for step, given in zip(step_questions(question), shares, strict=True)
    ]
    scorer = SequentialScorer(question=question, scorers=scorers)  # type: ignore[arg-type]
    (found,) = scorer.score([scorer.prepare(image(1))])
    a = 0.3 + 0.5 * 0.6 + 0.5 * 0.4 * 0.25
    assert [math.exp(logit) for logit in found.logits] == pytest.approx([a, 1 - a])
    assert found.margin == pytest.approx(math.log(a / (1 - a)))


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_an_answer_that_is_no_number_stays_none(odd: float) -> None:
    scorer, _, _ = scripted({1: (odd, 0.0)}, {1: (0.0, 0.0)})
    (found,) = scorer.score([scorer.prepare(image(1))])
    assert not math.isfinite(found.margin)


def test_steps_that_do_not_lead_to_the_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="must lead to all"):
        Question(name="q", prompt="?", labels=("a", "b"), flags=frozenset(), steps=(QUESTION.steps[0],))


def test_the_margin_of_labels() -> None:
    assert margin_of((1.0, 2.0, 0.0), ("a", "b", "c"), {"b"}) == pytest.approx(2 - math.log(math.e + 1))
    assert margin_of((1.0, 2.0, 0.0), ("a", "b", "c"), ()) == pytest.approx(2 - math.log(math.e + 1))
