"""How a setting scores images: the fleet's gate, the least certain first, and never more than the cap."""

from collections.abc import Sequence

import numpy as np
import pytest

from scanfleet.checks.crop import CropSettings
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.worker.tuning.evaluate import CropResult, Evaluator
from scanfleet.worker.tuning.search_space import CheckSetting, FirstPass
from tests.unit.worker.tuning.tuned_scores import CHECK, QUESTION, PlantedScores, examples

N = 60
FIRST = FirstPass(words="plain", max_pixels=CHECK.max_pixels)  # 100 tokens
PER_CROP = 50


def evaluator(scores: PlantedScores) -> Evaluator:
    return Evaluator(scores=scores, examples=scores.examples, check=CHECK, question=QUESTION, search=range(N))


def setting(*, max_extra: float = 10.0, when: str = "always", **more: object) -> CheckSetting:
    crop = {"when": when, "look": "crop", "crop_pixels": PER_CROP * 1024, "max_extra": max_extra, **more}
    return CheckSetting(first=FIRST, crop=CropSettings.model_validate(crop))


def test_a_cap_is_kept_to_the_token() -> None:
    found = evaluator(PlantedScores(examples(N))).outcome(setting(max_extra=0.2), range(N))
    assert found.tokens.sum() == N * 100 * 1.2
    assert found.cropped.sum() == N * 100 * 0.2 / PER_CROP


def test_the_least_certain_are_cropped_first() -> None:
    scores = PlantedScores(examples(N))
    found = evaluator(scores).outcome(setting(max_extra=0.1), range(N))
    firsts = np.abs([reading.margin for reading in scores.first_pass(FIRST, range(N))])
    assert max(firsts[found.cropped]) < min(firsts[~found.cropped])


def test_no_more_is_read_than_the_cap_lets_through_and_some_ahead() -> None:
    scores = PlantedScores(examples(400))
    evaluator(scores).outcome(setting(max_extra=0.01), range(400))
    assert len(scores.read_crops) < 100


def test_without_a_crop_pass_the_first_pass_is_the_answer() -> None:
    scores = PlantedScores(examples(N))
    found = evaluator(scores).outcome(CheckSetting(first=FIRST), range(N))
    assert found.margins.tolist() == [reading.margin for reading in scores.first_pass(FIRST, range(N))]
    assert not found.cropped.any()
    assert found.mean_tokens == 100


def test_images_that_were_shrunk_get_a_crop_pass() -> None:
    class Shrunk(PlantedScores):
        def shrink(self, first: FirstPass, image: int) -> float:
            return 2.0 if image % 3 == 0 else 1.4

    found = evaluator(Shrunk(examples(N))).outcome(setting(when="shrunk", shrink=1.5), range(N))
    assert found.cropped.tolist() == [image % 3 == 0 for image in range(N)]


def test_a_search_for_a_region_costs_tokens_even_in_vain() -> None:
    class Diffuse(PlantedScores):
        def crop_pass(self, first: FirstPass, policy: CropPolicy, images: Sequence[int]) -> list[CropResult]:
            return [CropResult(rows=(), tokens=30) for _ in images]

    scores = Diffuse(examples(N))
    found = evaluator(scores).outcome(setting(), range(N))
    assert found.mean_tokens == 130
    assert not found.cropped.any()
    assert found.margins.tolist() == [reading.margin for reading in scores.first_pass(FIRST, range(N))]


def test_fusions_differ_on_the_same_readings() -> None:
    scores = PlantedScores(examples(N), helps=lambda first, policy: True)
    made = evaluator(scores)
    mean, largest, second = (made.outcome(setting(fuse=fuse), range(N)).margins for fuse in ("mean", "max", "second"))
    firsts = np.array([reading.margin for reading in scores.first_pass(FIRST, range(N))])
    assert mean == pytest.approx((firsts + second) / 2)
    assert largest == pytest.approx(np.maximum(firsts, second))


def test_the_gate_uses_thresholds_certified_on_the_search_part() -> None:
    good = PlantedScores(examples(400), first_strength=lambda first: 4.0)
    few = Evaluator(scores=good, examples=good.examples, check=CHECK, question=QUESTION, search=range(40))
    many = Evaluator(scores=good, examples=good.examples, check=CHECK, question=QUESTION, search=range(400))
    assert few.first_thresholds(FIRST).review is None  # 20 positives certify no recall of .95
    found = many.first_thresholds(FIRST)
    assert found.review is not None
    uncertain = many.outcome(setting(when="uncertain", band=0.5), range(400))
    assert 0 < uncertain.cropped.sum() < 200
