"""Images are scored once per setting, and crop passes that use the same region share it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from scanfleet.errors import BadLabels
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.errors import ImageUnsuitable, ModelInvalid
from scanfleet.models.fake import FakeCropReader, FakePrepared, FakeScorer
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question, Reading
from scanfleet.worker.scoring.model import Model
from scanfleet.worker.tuning.score_cache import ScoreCache
from scanfleet.worker.tuning.search import UnsupportedSetting
from scanfleet.worker.tuning.search_space import FirstPass
from tests.unit.worker.tuning.tuned_scores import QUESTION, examples

PLAIN = FirstPass(words="plain", max_pixels=QUESTION.max_pixels)
PAIR = CropPolicy(look="pair", crop_pixels=1000, context_pixels=1000)
N, SIZE = 5, (60, 40)


class Attentive(FakeScorer):
    """Its readings come with attention, as those of a scorer that was given a policy."""

    def prepare(self, image: Image.Image) -> FakePrepared:
        if image.width > 10 * image.height:
            raise ImageUnsuitable("a thin strip")
        return super().prepare(image)

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        return [replace(one, attention=np.ones(25, dtype=np.float32)) for one in super().score(prepared)]


class Counted:
    """A model that keeps what it hands out."""

    def __init__(self) -> None:
        self.scorers: list[Attentive] = []
        self.crop_readers: list[FakeCropReader] = []
        self.firsts: list[Reading] = []

    def scorer(self, question: Question, adapter: Path | None, *, policy: CropPolicy | None = None) -> Attentive:
        assert policy is not None
        self.scorers.append(Attentive(question=question))
        return self.scorers[-1]

    def crop_reader(self, question: Question, policy: CropPolicy, adapter: Path | None) -> FakeCropReader:
        if policy.look == "tiles":
            raise ModelInvalid("no tiles here")
        model = self

        class Watched(FakeCropReader):
            def views(self, image: Image.Image, first: Reading) -> Any:
                model.firsts.append(first)
                return super().views(image, first)

        self.crop_readers.append(Watched(scorer=Attentive(question=question), pointed=policy.pointed, cost=7))
        return self.crop_readers[-1]

    @property
    def pointed_at(self) -> int:
        return sum(sum(one.calls) for one in self.crop_readers)

    @property
    def scored(self) -> int:
        return sum(sum(one.calls) for one in self.scorers)


def pictures(size: tuple[int, int] = SIZE) -> list[Example]:
    return [
        replace(one, open=lambda _, at=at: Image.new("RGB", size, (at * 40, 9, 9)))
        for at, one in enumerate(examples(N))
    ]


def scores_of(model: Counted, *, size: tuple[int, int] = SIZE, **more: Any) -> ScoreCache:
    return ScoreCache(
        model=cast("Model", model),
        question=QUESTION,
        adapter=None,
        examples=pictures(size),
        sizes=[size] * N,
        layers=(),
        token_budget=64,
        watch=lambda _: None,
        threads=2,
        **more,
    )


def test_a_first_pass_is_scored_once() -> None:
    model = Counted()
    scores = scores_of(model)
    once, repeated = scores.first_pass(PLAIN, range(N)), scores.first_pass(PLAIN, [3, 1])
    assert repeated == [once[3], once[1]]
    assert model.scored == N
    assert len({reading.margin for reading in once}) == N


def test_another_prompt_or_budget_is_another_first_pass() -> None:
    model = Counted()
    scores = scores_of(model)
    for first in (
        PLAIN,
        FirstPass(words="small-parts", max_pixels=PLAIN.max_pixels),
        FirstPass(words="plain", max_pixels=900),
    ):
        scores.first_pass(first, [0])
    asked = [one.question for one in model.scorers]
    assert [question.max_pixels for question in asked] == [PLAIN.max_pixels, PLAIN.max_pixels, 900]
    assert asked[0].prompt != asked[1].prompt


def test_a_crop_pass_is_scored_once_whatever_the_fusion() -> None:
    model = Counted()
    scores = scores_of(model)
    one = scores.crop_pass(PLAIN, PAIR, range(N))
    scored, pointed = model.scored, model.pointed_at
    assert scores.crop_pass(PLAIN, replace(PAIR, fuse="max"), range(N)) == one
    assert (model.scored, model.pointed_at) == (scored, pointed)
    assert all(result.tokens == 7 and result.cost == 7 + result.rows[0].visual_tokens for result in one)


def test_crops_of_other_budgets_share_the_region() -> None:
    model = Counted()
    scores = scores_of(model)
    scores.crop_pass(PLAIN, PAIR, range(N))
    scores.crop_pass(PLAIN, replace(PAIR, look="crop", crop_pixels=2000), range(N))
    assert model.pointed_at == N
    scores.crop_pass(PLAIN, replace(PAIR, method="grad-att"), range(N))
    assert model.pointed_at == 2 * N


def test_a_crop_pass_without_a_region_costs_its_rows_alone() -> None:
    model = Counted()
    result = scores_of(model).crop_pass(PLAIN, CropPolicy(look="larger", crop_pixels=2000), [0])[0]
    assert (result.tokens, len(result.rows), model.pointed_at) == (0, 1, 0)


def test_attention_that_was_dropped_is_scored_again_when_needed() -> None:
    model = Counted()
    scores = scores_of(model, attention_bytes=250)  # of two images and a half
    scores.first_pass(PLAIN, range(N))
    scores.crop_pass(PLAIN, PAIR, range(N))
    assert all(first.attention is not None for first in model.firsts)
    assert len(model.firsts) == N


def test_a_crop_pass_that_the_model_does_not_support_is_refused() -> None:
    with pytest.raises(UnsupportedSetting, match="no tiles here"):
        scores_of(Counted()).crop_pass(PLAIN, CropPolicy(look="tiles"), [0])


def test_an_image_that_the_model_cannot_process_is_named() -> None:
    with pytest.raises(BadLabels, match="0000"):
        scores_of(Counted(), size=(500, 4)).first_pass(PLAIN, [0])


def test_tokens_follow_from_sizes_alone() -> None:
    model = Counted()
    scores = scores_of(model)
    expected = scores.first_tokens(PLAIN, range(N))
    assert model.scored == 0
    assert expected == sum(reading.visual_tokens for reading in scores.first_pass(PLAIN, range(N))) / N


def test_shrinking_is_that_of_the_first_pass() -> None:
    scores = scores_of(Counted())
    assert scores.shrink(PLAIN, 0) == 1
    assert scores.shrink(FirstPass(words="plain", max_pixels=600), 0) == pytest.approx(2, abs=0.1)
