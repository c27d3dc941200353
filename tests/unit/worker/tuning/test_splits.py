"""The split of labelled images, the objective, the search space and the front."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scanfleet.errors import BadLabels
from scanfleet.models.types import Question
from scanfleet.worker.tuning.objective import Objective, Outcome, Truth, measure
from scanfleet.worker.tuning.search import ScoredSetting, front
from scanfleet.worker.tuning.search_space import (
    FIRST_TRIALS,
    CheckSetting,
    FirstPass,
    Space,
    as_check,
    current_setting,
    first_budgets,
)
from scanfleet.worker.tuning.splits import halves, splits_of
from tests.unit.worker.tuning.tuned_scores import CHECK, QUESTION, examples


def test_groups_are_never_split() -> None:
    labelled = examples(120, per_group=3)
    parts = splits_of(labelled, QUESTION, seed=0)
    groups = [{labelled[at].cluster for at in part} for part in (parts.search, parts.held_out)]
    assert not groups[0] & groups[1]
    assert sorted(parts.search + parts.held_out) == list(range(120))


def test_both_parts_have_both_sides_alike() -> None:
    labelled = examples(40)
    for seed in range(5):
        parts = splits_of(labelled, QUESTION, seed=seed)
        assert [sum(labelled[at].label == 0 for at in part) for part in (parts.search, parts.held_out)] == [10, 10]


def test_another_seed_splits_differently() -> None:
    labelled = examples(60)
    cuts = {splits_of(labelled, QUESTION, seed=seed).search for seed in (1, 1, 2)}
    assert len(cuts) == 2


def test_halves_share_no_group() -> None:
    labelled = examples(60, per_group=2)
    one, other = halves(range(60), labelled, seed=0)
    assert sorted(one + other) == list(range(60))
    assert not {labelled[at].cluster for at in one} & {labelled[at].cluster for at in other}


@pytest.mark.parametrize(
    ("labels", "datum"),
    [([1] * 40, "speck"), ([0] * 3 + [1] * 40, "3 groups")],
)
def test_too_few_of_a_side_are_refused(labels: list[int], datum: str) -> None:
    from dataclasses import replace

    labelled = [replace(one, label=label) for one, label in zip(examples(len(labels)), labels, strict=True)]
    with pytest.raises(BadLabels, match=datum):
        splits_of(labelled, QUESTION, seed=0)


def test_a_classification_with_one_label_alone_is_refused() -> None:
    question = Question(name="kinds", prompt="Which?", labels=("a", "b"), flags=frozenset())
    with pytest.raises(BadLabels, match="1 of the labels of kinds"):
        splits_of(examples(60, labels=1), question, seed=0)


def outcome(margins: list[float], right: list[bool] | None = None) -> Outcome:
    n = len(margins)
    return Outcome(
        margins=np.array(margins),
        right=np.array(right or [True] * n),
        tokens=np.ones(n),
        cropped=np.zeros(n, dtype=bool),
    )


TRUTH = Truth(positive=np.array([True] * 4 + [False] * 20), clusters=[str(at) for at in range(24)])


def test_recall_is_read_at_the_false_positive_rate() -> None:
    negatives = [float(at) for at in range(20)]  # the highest is 19: one in twenty flagged is 5 %
    found = Objective(at_fpr=0.05).value(outcome([30.0, 18.5, 18.5, 0.0, *negatives]), TRUTH)
    assert found == pytest.approx(0.75)
    assert Objective(at_fpr=0.1).value(outcome([30.0, 17.5, 17.5, 0.0, *negatives]), TRUTH) == pytest.approx(0.75)


def test_without_a_rate_right_labels_count() -> None:
    assert Objective(at_fpr=None).value(outcome([0.0] * 4, [True, True, True, False]), TRUTH) == 0.75


def test_a_change_is_measured_image_by_image() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.normal(size=24).tolist()
    same, better = outcome(noisy), outcome([*(50.0 for _ in range(4)), *noisy[4:]])
    found = measure(Objective(at_fpr=0.5), [same, better], TRUTH, same, seed=0, level=0.05)
    assert (found[0].change.low, found[0].change.high) == (0.0, 0.0)
    assert found[0].value.high > found[0].value.low
    assert found[1].change.value == pytest.approx(1.0 - found[0].value.value)
    assert math.isfinite(found[1].change.low)


def test_more_settings_make_wider_intervals() -> None:
    rng = np.random.default_rng(1)
    truth = Truth(positive=np.zeros(80, dtype=bool), clusters=[str(at) for at in range(80)])
    one, other = (outcome([0.0] * 80, (rng.random(80) < 0.6).tolist()) for _ in range(2))
    alone, among = (
        measure(Objective(at_fpr=None), [one], truth, other, seed=0, level=level)[0] for level in (0.05, 0.005)
    )
    assert among.change.low < alone.change.low
    assert among.change.high > alone.change.high


def tried(value: float, cost: float) -> ScoredSetting:
    return ScoredSetting(
        setting=CheckSetting(first=FirstPass(words=f"{value} {cost}", max_pixels=1000)), value=value, cost=cost
    )


def test_a_front_holds_what_nothing_cheaper_beats() -> None:
    found = front(
        [tried(0.5, 1.0), tried(0.4, 1.2), tried(0.7, 1.3), tried(0.9, 1.7), tried(0.7, 1.4)], limit=1.6, most=6
    )
    assert [(one.value, one.cost) for one in found] == [(0.5, 1.0), (0.7, 1.3)]


def test_a_long_front_is_thinned_and_keeps_its_ends() -> None:
    found = front([tried(at / 100, 1 + at / 100) for at in range(50)], limit=2, most=5)
    assert len(found) == 5
    assert (found[0].value, found[-1].value) == (0.0, 0.49)


class Scripted:
    """Gives the scripted answers, else the first choice."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._answers.get(name, choices[0])


def space(headroom: Callable[[FirstPass], float] = lambda first: 0.6) -> Space:
    return Space(check=CHECK, words=("plain", "other"), budgets=(1.0, 1.5), headroom=headroom)


def test_fields_that_do_not_apply_make_no_other_setting() -> None:
    answers = {"when": "always", "look": "larger"}
    one = space().suggest(Scripted(answers | {"method": "rel-att"}))
    assert one == space().suggest(Scripted(answers | {"method": "grad-att", "tiled": True, "context": 0.5}))
    assert one != space().suggest(Scripted(answers | {"fuse": "max"}))


def test_the_cap_stays_within_the_limit() -> None:
    found = space(lambda _: 0.617).suggest(Scripted({"when": "always", "share": 1.0}))
    assert isinstance(found, CheckSetting)
    assert not isinstance(found.crop, str)
    assert found.crop.max_extra == 0.61


def test_settings_over_the_limit_are_rejected_unread() -> None:
    assert "1 times the pixels" in str(space(lambda _: -0.1).suggest(Scripted({})))
    assert "crop passes" in str(space(lambda _: 0.01).suggest(Scripted({"when": "always"})))


def test_the_first_suggestions_are_settings() -> None:
    assert all(isinstance(space().suggest(Scripted(dict(first))), CheckSetting) for first in FIRST_TRIALS)


def test_budgets_over_the_limit_are_not_even_suggested() -> None:
    assert max(first_budgets(limit=1.3, fixed=False)) == 1.25
    assert first_budgets(limit=1.6, fixed=True) == (1.0,)


def test_a_setting_becomes_a_check_and_back() -> None:
    found = space().suggest(Scripted({"when": "uncertain", "look": "pair", "budget": 1.5}))
    assert isinstance(found, CheckSetting)
    check = as_check(CHECK, found, QUESTION, name="specks-2")
    assert current_setting(check) == found
    assert (check.name, check.labels) == ("specks-2", CHECK.labels)
    assert "uncertain" in found.in_words()


def test_a_tuned_check_has_explicit_budgets() -> None:
    found = space().suggest(Scripted({"when": "always", "look": "reweight", "budget": 1.5}))
    assert isinstance(found, CheckSetting)
    crop = as_check(CHECK, found, QUESTION, name=CHECK.name).crop
    assert not isinstance(crop, str)
    assert (crop.crop_pixels, crop.context_pixels) == (found.first.max_pixels, found.first.max_pixels // 4)


@pytest.mark.parametrize(
    ("answers", "why"),
    [({"look": "larger", "second": 1.0}, "reads the same again"), ({"look": "adapted"}, "never reads more")],
)
def test_crop_settings_that_a_check_refuses_are_rejected_unread(answers: dict[str, Any], why: str) -> None:
    assert why in str(space().suggest(Scripted({"when": "always"} | answers)))
    found = space().suggest(Scripted({"when": "always"} | answers | {"second": 2.0}))
    assert isinstance(found, CheckSetting)
    crop = as_check(CHECK, found, QUESTION, name=CHECK.name).crop
    assert not isinstance(crop, str)
    assert crop.look == answers["look"]


def test_the_other_order_is_tried_where_no_adapter_learnt_its_own() -> None:
    told = {"words": "plain", "budget": 1.0, "when": "never"}
    free = Space(
        check=CHECK, words=("plain", "other"), budgets=(1.0, 1.5), other_order="image-first", headroom=lambda _: 1.0
    )
    for order, found in (("own", None), ("other", "image-first")):
        setting = free.suggest(Scripted({"order": order, **told}))
        assert isinstance(setting, CheckSetting)
        assert setting.first.order == found
        assert as_check(CHECK, setting, QUESTION, name="tuned").order == found
    fixed = replace(free, other_order=None)
    setting = fixed.suggest(Scripted(told))  # is not asked
    assert isinstance(setting, CheckSetting)
    assert setting.first.order is None
