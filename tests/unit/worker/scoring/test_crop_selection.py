"""Which images get a crop pass, in which order and at which cost: the gate and its limit, without any image."""

from __future__ import annotations

import math

import pytest

from scanfleet.checks.check import Check, load_check
from scanfleet.checks.crop import CropSettings
from scanfleet.db.results.calibrations import Fitted
from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.types import Reading
from scanfleet.worker.scoring.crop import UNTRIED, margins_of
from scanfleet.worker.scoring.crop_selection import Allowance, Band, band_of, crop_reason, order, policy_of, shrink_of
from scanfleet.worker.scoring.decisions import Policy
from scanfleet.worker.scoring.factory import question_of

BETWEEN = band_of(thresholds=Thresholds(review=-1.0, flag=2.0), calibrator=None, has_flags=True)
EVEN = Calibrator(a=2.0, b=-1.0, n=50, prevalence=0.5)  # at a margin of 0.5


def reading(margin: float, *, mass: float = 1.0) -> Reading:
    return Reading(margin=margin, logits=(margin, 0.0, -9.0), mass=mass, visual_tokens=10)


def why(margin: float, band: Band, *, when: str = "uncertain", mass: float = 1.0, shrink: float = 1.0) -> str | None:
    settings = CropSettings.model_validate({"when": when, "band": 0.5, "shrink": 1.5})
    return crop_reason(settings, reading(margin, mass=mass), band, shrink=shrink)


@pytest.mark.parametrize(
    ("margin", "asked"),
    [(-1.51, None), (-1.5, "uncertain"), (0.0, "uncertain"), (2.5, "uncertain"), (2.51, None), (9.0, None)],
)
def test_what_lies_between_the_thresholds_or_near_one_is_uncertain(margin: float, asked: str | None) -> None:
    assert why(margin, BETWEEN) == asked


@pytest.mark.parametrize(
    ("thresholds", "margin", "asked"),
    [
        (Thresholds(review=None, flag=2.0), -50.0, "uncertain"),  # nothing can be cleared
        (Thresholds(review=None, flag=2.0), 2.6, None),
        (Thresholds(review=-1.0, flag=None), 50.0, "uncertain"),  # nothing can be flagged
        (Thresholds(review=-1.0, flag=None), -1.6, None),
        (Thresholds(review=None, flag=None), 7.0, "uncertain"),
    ],
)
def test_without_a_certified_threshold_that_side_is_open(
    thresholds: Thresholds, margin: float, asked: str | None
) -> None:
    assert why(margin, band_of(thresholds=thresholds, calibrator=None, has_flags=True)) == asked


@pytest.mark.parametrize(
    ("calibrator", "margin", "asked"),
    [(None, 0.5, "uncertain"), (None, 0.51, None), (EVEN, 1.0, "uncertain"), (EVEN, 1.1, None), (EVEN, -0.1, None)],
)
def test_without_thresholds_it_is_the_even_chance(
    calibrator: Calibrator | None, margin: float, asked: str | None
) -> None:
    assert why(margin, band_of(thresholds=None, calibrator=calibrator, has_flags=True)) == asked


def test_a_plain_classification_is_uncertain_without_a_clear_winner() -> None:
    band = band_of(thresholds=None, calibrator=None, has_flags=False)
    assert [why(margin, band) for margin in (-3.0, 0.4, 0.6)] == ["uncertain", "uncertain", None]


def test_low_mass_is_uncertain_whatever_the_margin() -> None:
    assert why(9.0, BETWEEN, mass=0.89) == "uncertain"
    assert why(9.0, BETWEEN, mass=0.89, when="shrunk") is None


@pytest.mark.parametrize(
    ("when", "uncertain", "shrunk", "both", "neither"),
    [
        ("uncertain", "uncertain", None, "uncertain", None),
        ("shrunk", None, "shrunk", "shrunk", None),
        ("uncertain-or-shrunk", "uncertain", "shrunk", "uncertain", None),
        ("always", "always", "always", "always", "always"),
    ],
)
def test_each_gate(when: str, uncertain: str | None, shrunk: str | None, both: str | None, neither: str | None) -> None:
    found = [
        why(margin, BETWEEN, when=when, shrink=shrink)
        for margin, shrink in ((0.0, 1.5), (9.0, 1.51), (0.0, 1.51), (9.0, 1.5))
    ]
    assert found == [uncertain, shrunk, both, neither]


def test_the_side_that_lost_more_counts() -> None:
    class Read:
        resized_size = (500, 400)

    assert shrink_of((6000, 400), Read()) == 12


def test_the_least_certain_come_first_and_content_settles_a_tie() -> None:
    images = [(2.0, "b"), (0.5, "z"), (-1.0, "a"), (0.6, "c"), (2.0, "a")]
    found = sorted(images, key=lambda image: order(reading(image[0]), BETWEEN, image[1]))
    assert found == [(0.5, "z"), (0.6, "c"), (-1.0, "a"), (2.0, "a"), (2.0, "b")]


def test_no_more_is_taken_than_the_share_of_what_first_looks_read() -> None:
    allowance = Allowance(0.5)
    assert not allowance.take(1)
    allowance.earn(100)
    assert allowance.take(30)
    assert not allowance.take(21)
    assert allowance.take(20)
    assert not allowance.take(1)
    allowance.correct(-5)
    assert allowance.left == 5


def test_what_waits_keeps_its_tokens_for_the_next_attempt() -> None:
    allowance = Allowance(0.5)
    allowance.earn(100)
    assert allowance.take(40)
    allowance.postpone(first=20, granted=40)
    assert (allowance.left, allowance.left_over) == (10, 40)  # they stay reserved
    later = Allowance(0.5, left_over=allowance.left_over)
    later.earn(20)
    assert later.take(50)
    assert not later.take(1)


def test_without_a_share_there_is_no_end() -> None:
    assert Allowance(None).take(10**9)
    assert Allowance(None).left == math.inf


def test_open_budgets_follow_the_first_look() -> None:
    check = crop_check(crop_pixels=100_000)
    assert isinstance(check.crop, CropSettings)
    policy = policy_of(check, check.crop)
    assert (policy.crop_pixels, policy.context_pixels, policy.look) == (100_000, check.max_pixels // 4, "pair")
    assert policy_of(check, CropSettings(context_pixels=2000)).context_pixels == 2000
    assert policy_of(check, CropSettings()).crop_pixels == check.max_pixels
    tiny = check.model_copy(update={"max_pixels": 900})
    assert policy_of(tiny, CropSettings()).context_pixels == 28 * 28


def test_a_pair_with_open_budgets_fits_under_the_cap() -> None:
    check, settings = crop_check(), CropSettings()
    policy, allowance = policy_of(check, settings), Allowance(settings.max_extra)
    allowance.earn(check.max_pixels)
    assert allowance.take(policy.crop_pixels + policy.context_pixels)


# How the margins of a configuration are interpreted


def crop_check(**settings: object) -> Check:
    return load_check("overlay").model_copy(update={"crop": CropSettings.model_validate(settings)})


def own(check: Check) -> Policy:
    return Policy(question=question_of(check), calibrator=EVEN, thresholds=Thresholds(review=-1.0, flag=2.0))


def test_first_looks_are_read_as_the_adapter_says() -> None:
    check = load_check("overlay")
    assert margins_of(check, own(check), same_budget=True, fitted=None).policy == own(check)


@pytest.mark.parametrize(("band", "apart"), [(0.1, UNTRIED), (1.5, 1.5)])
def test_an_untried_second_look_has_no_score_and_a_higher_flag_threshold(band: float, apart: float) -> None:
    check = crop_check(band=band)
    found = margins_of(check, own(check), same_budget=True, fitted=None)
    assert found.policy.calibrator is None
    assert found.policy.thresholds == Thresholds(review=None, flag=2.0 + apart)
    assert found.band == Band(low=-1.0, high=2.0)


def test_another_budget_alone_does_the_same() -> None:
    check = load_check("overlay")
    found = margins_of(check, own(check), same_budget=False, fitted=None).policy
    assert (found.calibrator, found.thresholds) == (None, Thresholds(review=-1.0 - UNTRIED, flag=2.0 + UNTRIED))


def test_what_was_fitted_to_the_configuration_goes_before_the_adapter() -> None:
    check = crop_check()
    calibrator = {"a": 1.0, "b": 0.0, "n": 80, "prevalence": 0.4}
    thresholds, first = {"review": -3.0, "flag": 4.0}, {"review": -5.0, "flag": 6.0}
    fitted = Fitted(calibrator=calibrator, thresholds=thresholds, first_thresholds=first)
    found = margins_of(check, own(check), same_budget=True, fitted=fitted)
    assert (found.policy.calibrator, found.policy.thresholds) == (Calibrator(**calibrator), Thresholds(**thresholds))
    assert found.band == Band(low=-5.0, high=6.0)
    plain = Fitted(calibrator=calibrator, thresholds=thresholds, first_thresholds=None)
    assert margins_of(check, own(check), same_budget=True, fitted=plain).band == Band(low=-1.0, high=2.0)


def test_a_missing_look_leaves_it_to_a_person() -> None:
    check = crop_check()
    decided = own(check).decide(reading(9.0), complete=False)
    assert (decided.decision, decided.score) == ("review", None)
    assert own(check).decide(reading(9.0)).decision == "flag"
