"""Certificates that hold: look-alikes are one witness, and precision is that of the archive's share of positives."""

from __future__ import annotations

import pytest
from scipy.special import logit

from bench.judging.certificates import Case, run
from scanfleet.models.adapters.certificates import certify_precision, certify_recall, shifted


def groups(n: int, size: int) -> list[str]:
    return [f"g{at}" for at in range(n) for _ in range(size)]


def test_a_group_of_copies_certifies_no_more_than_one_of_them() -> None:
    for n, met in ((58, False), (59, True)):
        margins, names = [float(at // 5) for at in range(5 * n)], groups(n, 5)
        recall = certify_recall(margins, [True] * len(margins), target=0.95, clusters=names)
        precision = certify_precision(margins, [True] * len(margins), target=0.95, clusters=names)
        assert (recall.met, precision.met) == (met, met)
        assert recall.trials == n
    assert certify_recall(margins, [True] * len(margins), target=0.95).trials == 5 * 59


def test_copies_in_their_groups_change_no_threshold() -> None:
    margins = [float(at) for at in range(300)]
    positive = [at >= 100 or at % 7 == 0 for at in range(300)]
    five = [each for each in margins for _ in range(5)], [each for each in positive for _ in range(5)]
    for certify in (certify_recall, certify_precision):
        alone = certify(margins, positive, target=0.9)
        alike = certify(*five, target=0.9, clusters=groups(300, 5))
        assert alone.met
        assert (alone.threshold, alone.trials, alone.failures) == (alike.threshold, alike.trials, alike.failures)


def test_a_part_of_a_group_counts_as_that_part() -> None:
    margins, names = [0.0, *[9.0] * 3, *[9.0] * 100], ["a"] * 4 + [f"b{at}" for at in range(100)]
    found = certify_recall([*margins, 8.0], [True] * 105, target=0.95, clusters=[*names, "a"])
    assert (found.threshold, found.trials, found.failures) == (9.0, 101, 0.4)  # two of five in one of 101 groups
    mixed = certify_precision([9.0, 9.0], [True, False], target=0.5, clusters=["a", "a"])
    assert mixed.prevalence == 0.5


@pytest.mark.parametrize(("prevalence", "fewest"), [(None, 59), (1 / 3, 59), (0.05, 543), (0.02, 1397), (0.5, 30)])
def test_rare_positives_take_more_flagged_images_without_an_error(prevalence: float | None, fewest: int) -> None:
    for n in (fewest - 1, fewest):
        margins, positive = [2.0] * n + [1.0] * 2 * n, [True] * n + [False] * 2 * n
        found = certify_precision(margins, positive, target=0.95, prevalence=prevalence)
        assert found.met is (n == fewest)
        assert found.fewest == fewest
        assert found.prevalence == pytest.approx(prevalence or 1 / 3)


def test_what_was_achieved_is_that_of_the_archive() -> None:
    margins, positive = [2.0] * 400 + [1.0] * 800, [True] * 390 + [False] * 10 + [True] * 10 + [False] * 790
    found = certify_precision(margins, positive, target=0.5, prevalence=0.05)
    right, wrong = 0.05 * 390 / 400, 0.95 * 10 / 800
    assert found.achieved == pytest.approx(right / (right + wrong))
    assert (found.trials, found.failures) == (400, 10)
    assert found.in_archive(0.975) == pytest.approx(found.achieved)
    assert shifted(0.975, logit(0.05) - logit(1 / 3)) == pytest.approx(found.achieved)


@pytest.mark.parametrize("kind", [True, False])
def test_labels_of_one_kind_certify_no_precision_at_another_prevalence(kind: bool) -> None:
    assert not certify_precision([1.0] * 500, [kind] * 500, target=0.5, prevalence=0.02).met


def test_certificates_hold_as_often_as_promised() -> None:
    """Each image as a witness of its own breaks the promise in one of five sets of look-alikes."""
    alike = Case(name="alike", n=1000, size=5, alike=0.9)
    hard = Case(name="hard", n=1000, size=5, hard=0.04)
    rare = Case(name="rare", n=2000, archive=0.05)
    figures = run([alike, hard, rare], simulations=200).figures
    assert figures["worst_coverage"] > 0.96  # three standard errors of 200 simulations below 1
    assert figures["alike"]["recall_kept_before"] < 0.9
    assert figures["rare"]["precision_kept_before"] < 0.1
    assert figures["alike"]["recall_given"] > 0.8  # it is no promise of nothing
    assert figures["rare"]["precision_given"] > 0.2
