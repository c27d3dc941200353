"""Generation beside the instruction's keys and values, in every family that was taught boxes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from scanfleet.models import factory
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.scoring.boxes import GeneratingFinder
from scanfleet.models.types import Question
from tests.unit.models import tiny_models
from tests.unit.models.checkpoints import TINY

QUESTION = Question(
    name="bag",
    prompt="?",
    labels=("knife", "gun", "none"),
    flags=frozenset({"knife", "gun"}),
    max_pixels=100 * 100,
)
SIZES = ((100, 60), (180, 90), (64, 120))
WITH_BOXES = [name for name, family in FAMILIES.items() if family.boxes is not None]
N_TOKENS = 12


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BaseModel]:
    root: Path = tmp_path_factory.mktemp("families")
    return cache(lambda family: load_base(str(TINY[family].checkpoint(root / family)), precision="fp32", device="cpu"))


def finder_of(base: BaseModel) -> GeneratingFinder:
    return GeneratingFinder(base=base, question=QUESTION, adapter_sha256=None, max_new_tokens=N_TOKENS)


@pytest.mark.parametrize("family", WITH_BOXES)
def test_tokens_are_those_of_transformers_own_generation(load: Callable[[str], BaseModel], family: str) -> None:
    base = load(family)
    finder, scorer = finder_of(base), factory.scorer(base, QUESTION)
    answers = []
    for number, size in enumerate(SIZES[:2]):
        image = tiny_models.picture(*size, number)
        (found,) = finder.generate([scorer.prepare(image)])
        inputs = TINY[family].reference_inputs(base, finder._turn.text, image, QUESTION)
        told = base.network.generate(**inputs, do_sample=False, max_new_tokens=N_TOKENS)[0]
        expected = told[inputs["input_ids"].shape[1] :].tolist()
        stop = base.processor.tokenizer.eos_token_id
        assert found.ids == [token for token in expected if token != stop]
        answers.append(found.ids)
    assert answers[0] != answers[1], "answers that do not look at the image would prove nothing"


@pytest.mark.parametrize("family", WITH_BOXES)
def test_neighbours_change_no_token(load: Callable[[str], BaseModel], family: str) -> None:
    base = load(family)
    finder, scorer = finder_of(base), factory.scorer(base, QUESTION)
    images = [scorer.prepare(tiny_models.picture(*size, number)) for number, size in enumerate(SIZES)]
    alone = [finder.generate([image])[0].ids for image in images]
    for order in ((0, 1, 2), (2, 0)):
        assert [answer.ids for answer in finder.generate([images[at] for at in order])] == [alone[at] for at in order]
