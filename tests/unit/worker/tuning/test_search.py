"""The search finds a planted gain within the cost limit, and reports none where there is none."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from scanfleet.checks.check import Check
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.inputs.wording import names
from scanfleet.models.types import Question, Reading
from scanfleet.worker.tuning.run import Plan, Tuning
from scanfleet.worker.tuning.search import SearchStopped
from scanfleet.worker.tuning.search_space import FirstPass, FixedParts, current_setting
from tests.unit.worker.tuning.tuned_scores import CHECK, IDENTITY, QUESTION, PlantedScores, examples

NOTHING_FIXED = FixedParts()


def plan(**more: Any) -> Plan:
    return Plan(
        **{"check": CHECK, "name": CHECK.name, "max_cost": 1.6, "trials": 40, "seed": 0, "at_fpr": 0.05, **more}
    )


def tune(
    scores: PlantedScores, *, fixed: FixedParts = NOTHING_FIXED, question: Question = QUESTION, **more: Any
) -> dict[str, Any]:
    tuning = Tuning(
        plan(**more), question=question, identity=IDENTITY, fixed=fixed, examples=scores.examples, scores=scores
    )
    return tuning.run(lambda done, total, seconds: None)


def crop_helps(first: FirstPass, policy: CropPolicy) -> bool:
    return policy.look == "crop" and policy.method == "rel-att"


@pytest.mark.slow
def test_it_finds_the_crop_that_shows_the_target() -> None:
    record = tune(PlantedScores(examples(240), helps=crop_helps))
    assert record["chosen"] is not None, record["reason"]
    row = record["front"][record["chosen"]]
    crop = row["setting"]["crop"]
    assert (crop["look"], crop["method"]) == ("crop", "rel-att")
    assert row["cost"] <= 1.6
    assert row["change"]["low"] > 0
    assert record["tuned"]["check"]["crop"]["look"] == "crop"


def test_it_finds_a_prompt_that_helps() -> None:
    scores = PlantedScores(examples(240), first_strength=lambda first: 3.0 if first.words == names()[-1] else 0.0)
    record = tune(scores)
    assert record["chosen"] is not None, record["reason"]
    assert record["front"][record["chosen"]]["setting"]["words"] == names()[-1]
    assert record["tuned"]["check"]["prompt"] != CHECK.prompt


def test_no_setting_of_the_front_costs_more_than_the_limit() -> None:
    for limit in (1.0, 1.3):
        record = tune(PlantedScores(examples(100), helps=crop_helps), max_cost=limit, trials=20)
        assert record["front"]
        assert all(row["searched"]["cost"] <= limit for row in record["front"])


def test_nothing_over_the_limit_is_read() -> None:
    scores = PlantedScores(examples(160), first_strength=lambda first: first.max_pixels / CHECK.max_pixels)
    tune(scores, max_cost=1.3, trials=20)
    # The larger budget at equal cost is a baseline, and at the limit or below it.
    assert max(first.max_pixels for first, _ in scores.read_first) <= 1.3 * CHECK.max_pixels
    assert {first.max_pixels for first, _ in scores.read_first} > {CHECK.max_pixels}


def test_noise_is_not_sold_as_a_gain() -> None:
    for seed in range(2):
        record = tune(PlantedScores(examples(120)), seed=seed, trials=20)
        assert record["chosen"] is None
        assert record["tuned"] is None


def test_held_out_images_are_read_for_the_front_alone() -> None:
    scores = PlantedScores(examples(100), helps=crop_helps)
    tuning = Tuning(
        plan(), question=QUESTION, identity=IDENTITY, fixed=FixedParts(), examples=scores.examples, scores=scores
    )
    seen_at_the_end: list[int] = []
    record = tuning.run(lambda *_: None, searched=lambda: seen_at_the_end.append(len(scores.read_first)))
    during = {image for _, image in scores.read_first[: seen_at_the_end[0]]}
    assert during == set(tuning.parts.search)
    assert len(record["front"]) < record["trials"]


def test_a_gain_on_the_search_part_alone_is_not_believed() -> None:
    scores = PlantedScores(examples(200))
    tuning = Tuning(
        plan(), question=QUESTION, identity=IDENTITY, fixed=FixedParts(), examples=scores.examples, scores=scores
    )
    lucky = set(tuning.parts.search)
    plain = scores.first_pass

    def first(way: FirstPass, images: Any) -> Any:
        scores.first_strength = lambda way: 4.0 if way.words != "plain" and set(images) <= lucky else 0.0
        return plain(way, images)

    scores.first_pass = first  # type: ignore[method-assign]
    record = tuning.run(lambda *_: None)
    best = max(record["front"], key=lambda row: row["searched"]["value"])
    assert best["searched"]["value"] > 0.5
    assert best["value"]["value"] < 0.5
    assert record["chosen"] is None


def test_a_seed_repeats_the_whole_search() -> None:
    one, same, other = (tune(PlantedScores(examples(120), helps=crop_helps), trials=20, seed=s) for s in (3, 3, 4))
    assert one == same
    assert one["tried"] != other["tried"]


def test_an_adapter_keeps_its_prompt_and_its_first_budget() -> None:
    scores = PlantedScores(examples(120), helps=crop_helps)
    record = tune(scores, fixed=FixedParts(words=True, budget=True), trials=25)
    tried = [one["setting"] for one in record["tried"]]
    assert {(one["words"], one["max_pixels"]) for one in tried} == {("plain", CHECK.max_pixels)}
    assert any("adapter" in note for note in record["notes"])


def test_a_stopped_search_is_measured_on_its_results_so_far() -> None:
    scores = PlantedScores(examples(160), helps=crop_helps)
    stops = {"left": 30}

    def count() -> None:
        stops["left"] -= 1
        if stops["left"] == 0:
            raise SearchStopped

    scores.before_reading = count
    record = tune(scores, trials=200)
    assert record["stopped"]
    assert 0 < record["trials"] < 200
    assert record["front"]


def test_the_current_check_may_have_a_crop_pass_already() -> None:
    check = Check.model_validate(CHECK.model_dump() | {"crop": {"when": "always", "look": "crop", "max_extra": 1.0}})
    record = tune(PlantedScores(examples(160), helps=crop_helps), check=check, trials=10)
    assert record["standing"]["again"] == 1.0
    assert record["standing"]["cost"] == 1.0
    best = max(record["front"], key=lambda row: row["searched"]["value"])
    assert record["larger"]["cost"] == pytest.approx(best["cost"], rel=0.02)
    assert current_setting(check).crop == check.crop


@pytest.mark.parametrize("helps", [crop_helps, lambda first, policy: False])
def test_a_plain_classification_is_judged_by_its_accuracy(helps: Callable[[FirstPass, CropPolicy], bool]) -> None:
    check = Check.model_validate(CHECK.model_dump() | {"flags": ()})
    question = Question(
        name="specks", prompt="Is there a speck?", labels=("speck", "none"), flags=frozenset(), max_pixels=320 * 320
    )
    record = tune(PlantedScores(examples(200), helps=helps), check=check, question=question)
    assert record["objective"]["name"] == "accuracy"
    assert (record["chosen"] is not None) == (helps is crop_helps)


def test_few_images_decide_nothing() -> None:
    few = tune(PlantedScores(examples(36), helps=crop_helps), trials=25)
    assert few["chosen"] is None
    assert "9 held-out groups" in few["reason"]
    assert any("9 held-out images" in note for note in few["notes"])


@pytest.mark.parametrize("largest", [320 * 320, 10**9])
def test_a_larger_budget_without_effect_is_noted(largest: int) -> None:
    class Small(PlantedScores):
        def first_pass(self, first: FirstPass, images: Sequence[int]) -> list[Reading]:
            return super().first_pass(replace(first, max_pixels=min(first.max_pixels, largest)), images)

    record = tune(Small(examples(120), helps=crop_helps), trials=10)
    assert any("larger budget" in note for note in record["notes"]) == (largest == 320 * 320)
