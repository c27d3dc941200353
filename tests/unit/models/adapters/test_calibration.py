"""Calibration and thresholds: known numbers, guarantees that hold in simulation, and targets reported as unmet."""

from __future__ import annotations

import math
import random

import pytest
from scipy.special import expit
from scipy.stats import binom

from scanfleet.models.adapters.calibration import Calibrator, Thresholds, fit_platt, thresholds_from
from scanfleet.models.adapters.certificates import Certificate, certify_precision, certify_recall
from scanfleet.models.adapters.metrics import brier, calibration_error, negative_log_likelihood, wilson
from scanfleet.models.errors import ModelInvalid


def drawn(n: int, *, a: float, b: float, seed: int) -> tuple[list[float], list[bool]]:
    """Margins whose true probability of being positive is sigmoid(a * margin + b)."""
    rng = random.Random(seed)
    margins = [rng.gauss(0, 3) for _ in range(n)]
    return margins, [rng.random() < expit(a * m + b) for m in margins]


def test_platt_finds_the_curve_the_labels_were_sampled_from() -> None:
    found = fit_platt(*drawn(20_000, a=0.8, b=-1.2, seed=1))
    assert found.a == pytest.approx(0.8, abs=0.04)
    assert found.b == pytest.approx(-1.2, abs=0.06)
    assert found.n == 20_000


def test_platt_is_the_minimum_of_the_smoothed_loss() -> None:
    """Platt 1999: targets (N+ + 1)/(N+ + 2) and 1/(N- + 2); no neighbour of the solution is better."""
    margins, positive = drawn(60, a=2.0, b=0.5, seed=2)
    n_pos = sum(positive)
    high, low = (n_pos + 1) / (n_pos + 2), 1 / (60 - n_pos + 2)

    def loss(a: float, b: float) -> float:
        pairs = [(expit(a * m + b), high if p else low) for m, p in zip(margins, positive, strict=True)]
        return -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in pairs)

    found = fit_platt(margins, positive)
    best = loss(found.a, found.b)
    for step in (0.01, -0.01):
        assert loss(found.a + step, found.b) > best
        assert loss(found.a, found.b + step) > best


def test_platt_stays_finite_when_the_margins_separate_the_classes() -> None:
    found = fit_platt([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], [False] * 3 + [True] * 3)
    assert 0.6 < found.probability(2.0) < 0.999


def test_platt_refuses_one_class_and_margins_that_point_the_wrong_way() -> None:
    with pytest.raises(ModelInvalid, match="both kinds"):
        fit_platt([1.0, 2.0], [True, True])
    with pytest.raises(ModelInvalid, match="do not mean positive"):
        fit_platt([3.0, 2.0, -2.0, -3.0], [False, False, True, True])


def test_prevalence_moves_the_odds_by_the_ratio_of_odds() -> None:
    calibrator = Calibrator(a=1.0, b=0.0, n=100, prevalence=0.5)
    assert calibrator.probability(1.3) == pytest.approx(expit(1.3))
    rare = calibrator.probability(1.3, prevalence=0.01)
    assert rare / (1 - rare) == pytest.approx(math.exp(1.3) * 0.01 / 0.99)
    assert calibrator.probability(1.3, prevalence=0.5) == pytest.approx(calibrator.probability(1.3))


@pytest.mark.parametrize("field", [{"a": 0.0}, {"a": math.inf}, {"b": math.nan}, {"n": 0}, {"prevalence": 1.0}])
def test_a_calibrator_that_cannot_be_is_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="calibrator"):
        Calibrator(**({"a": 1.0, "b": 0.0, "n": 10, "prevalence": 0.5} | field))  # type: ignore[arg-type]


@pytest.mark.parametrize(("positives", "misses"), [(59, 0), (100, 1), (200, 4), (500, 16)])
def test_recall_of_95_percent_needs_the_published_numbers(positives: int, misses: int) -> None:
    """Methods: 59 positives with 0 misses, 100 with 1, 200 with 4, 500 with 16; one miss more is too many."""
    margins = [float(i) for i in range(positives)]
    found = certify_recall(margins, [True] * positives, target=0.95)
    assert found.threshold == misses  # that many margins lie below it
    assert found.failures == misses
    assert found.achieved == 1 - misses / positives


def test_too_few_positives_leave_recall_unmet() -> None:
    found = certify_recall([float(i) for i in range(58)], [True] * 58, target=0.95)
    assert not found.met
    assert found.threshold is None
    assert not certify_recall([], [], target=0.95).met


def test_equal_margins_are_one_threshold() -> None:
    found = certify_recall([1.0] * 3 + [2.0] * 97, [True] * 100, target=0.95)
    assert (found.threshold, found.failures) == (1.0, 0)  # leaving out 1.0 would miss three, and one is allowed


def test_precision_walks_down_to_the_last_certified_set() -> None:
    margins = [float(i) for i in range(400)]
    positive = [i >= 100 for i in range(400)]  # the top 300 are right, below that every one is wrong
    found = certify_precision(margins, positive, target=0.90)
    assert found.threshold is not None
    flagged = [p for m, p in zip(margins, positive, strict=True) if m >= found.threshold]
    assert found.trials == len(flagged)
    assert found.failures == flagged.count(False)
    assert binom.cdf(found.failures, found.trials, 0.1) <= 0.05 < binom.cdf(found.failures + 1, found.trials + 1, 0.1)


def test_precision_needs_thirty_flagged_and_reports_unmet() -> None:
    assert not certify_precision([float(i) for i in range(29)], [True] * 29, target=0.5).met
    assert certify_precision([float(i) for i in range(30)], [True] * 30, target=0.5).met
    wrong = certify_precision([float(i) for i in range(100)], [i < 50 for i in range(100)], target=0.9)
    assert not wrong.met
    assert wrong.achieved < 0.9


def test_certified_recall_holds_on_fresh_images_as_often_as_promised() -> None:
    """1,000 labelled sets: the true recall at the certified threshold falls short in at most about 5 % of them."""
    rng = random.Random(3)
    failures = 0
    for _ in range(1000):
        hits = [rng.gauss(2, 1) for _ in range(150)]
        found = certify_recall(hits, [True] * 150, target=0.9)
        assert found.threshold is not None
        true_recall = 0.5 * math.erfc((found.threshold - 2) / math.sqrt(2))
        failures += true_recall < 0.9
    assert failures <= 70  # 50 expected at most; 70 is 2.9 standard deviations above


def test_thresholds_decide_and_unmet_targets_let_nothing_through() -> None:
    both = Thresholds(review=-1.0, flag=2.0)
    assert [both.decide(m) for m in (-1.1, -1.0, 1.9, 2.0)] == ["clear", "review", "review", "flag"]
    assert Thresholds(review=None, flag=2.0).decide(-50) == "review"
    assert Thresholds(review=-1.0, flag=None).decide(50) == "review"
    with pytest.raises(ValueError, match="above"):
        Thresholds(review=3.0, flag=2.0)


def test_two_walks_make_one_pair_that_keeps_both_promises() -> None:
    def at(threshold: float | None) -> Certificate:
        return Certificate(target=0.9, confidence=0.95, threshold=threshold, achieved=1, trials=100, failures=0)

    assert thresholds_from(at(-1.0), at(2.0)) == Thresholds(review=-1.0, flag=2.0)
    assert thresholds_from(at(3.0), at(1.0)) == Thresholds(review=2.0, flag=2.0)
    assert thresholds_from(at(None), at(1.0)) == Thresholds(review=None, flag=1.0)
    assert thresholds_from(at(1.0), at(None)) == Thresholds(review=1.0, flag=None)


def test_brier_and_log_loss_of_known_probabilities() -> None:
    assert brier([0.9, 0.2], [True, False]) == pytest.approx((0.01 + 0.04) / 2)
    assert negative_log_likelihood([0.9, 0.2], [True, False]) == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)


def test_log_loss_is_finite_where_a_certain_answer_is_wrong_and_one_kind_is_missing() -> None:
    assert negative_log_likelihood([1.0], [False]) == pytest.approx(-math.log(1e-12), rel=1e-4)
    assert negative_log_likelihood([0.5, 0.5], [True, True]) == pytest.approx(math.log(2))
    assert brier([0.5, 0.5], [True, True]) == pytest.approx(0.25)


def test_calibration_error_of_a_known_gap() -> None:
    assert calibration_error([0.9] * 100, [True] * 60 + [False] * 40, bins=1) == pytest.approx(0.3)
    margins, positive = drawn(30_000, a=1.0, b=0.0, seed=5)
    assert calibration_error([expit(m) for m in margins], positive) < 0.02
    assert calibration_error([expit(3 * m) for m in margins], positive) > 0.05


def test_wilson_reproduces_textbook_intervals() -> None:
    assert wilson(8, 50) == pytest.approx((0.0834, 0.2851), abs=1e-3)
    assert wilson(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-3)
    assert wilson(100, 100)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_probability_never_overflows_and_refuses_an_impossible_prevalence() -> None:
    calibrator = Calibrator(a=1.0, b=0.0, n=100, prevalence=0.5)
    assert (calibrator.probability(-1e4), calibrator.probability(1e4)) == (0.0, 1.0)
    for prevalence in (0.0, 1.0):
        with pytest.raises(ValueError, match=str(prevalence)):
            calibrator.probability(0.0, prevalence=prevalence)
