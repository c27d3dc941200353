"""The stability index, its noise, and the text of findings. Statistics on seeded samples."""

import math
import random
from collections import Counter

import pytest

from scanfleet.stats.counts import Labels, Slice, Tally
from scanfleet.stats.drift import judge, judge_labels
from scanfleet.stats.proportions import Proportion, ratio_interval, wilson
from scanfleet.stats.psi import (
    counts_between,
    edges_of_histogram,
    psi,
    psi_mean,
    psi_noise,
    psi_of_counts,
    quantile_edges,
)


def normal(seed: int, n: int, mean: float = 0.0) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, 1.0) for _ in range(n)]


def test_psi_is_the_sum_of_share_moves_times_their_logarithms() -> None:
    assert psi_of_counts([50, 50], [25, 75]) == pytest.approx(0.25 * math.log(3), rel=0.03)  # counts are smoothed
    assert psi_of_counts([500_000, 500_000], [250_000, 750_000]) == pytest.approx(0.25 * math.log(3), rel=1e-4)
    assert psi_of_counts([10, 20, 30], [10, 20, 30]) == 0


def test_a_bin_that_one_side_leaves_empty_is_large_and_finite() -> None:
    assert 1 < psi_of_counts([100, 0], [0, 100]) < 20


def test_identical_samples_do_not_move_and_shifted_ones_do() -> None:
    before = normal(1, 2000)
    assert psi(before, before) == 0
    # A normal distribution shifted by s standard deviations has a PSI of s squared; bins see a little less of it.
    assert psi(before, normal(2, 2000, mean=0.5)) == pytest.approx(0.25, rel=0.25)


def test_a_constant_that_moves_is_seen() -> None:
    assert psi([1.0] * 300, [5.0] * 300) > 1
    assert psi([1.0] * 300, [1.0] * 300) == 0


def test_ties_leave_fewer_bins_and_no_empty_one() -> None:
    edges = quantile_edges([0.0] * 60 + [1.0] * 40)
    assert edges == [1.0]
    assert counts_between([0.0] * 60 + [1.0] * 40, edges) == [60, 40]


@pytest.mark.parametrize(
    ("expected", "actual", "bins"),
    [([], [1.0], 10), ([1.0], [], 10), ([math.nan], [1.0], 10), ([1.0], [math.inf], 10), ([1.0], [1.0], 1)],
)
def test_what_cannot_be_compared_is_refused(expected: list[float], actual: list[float], bins: int) -> None:
    with pytest.raises(ValueError):
        psi(expected, actual, bins=bins)


def test_histograms_over_different_bins_are_refused() -> None:
    with pytest.raises(ValueError):
        psi_of_counts([1, 2], [1, 2, 3])
    with pytest.raises(ValueError):
        psi_of_counts([1, -2], [1, 2])


def test_edges_of_a_histogram_cut_as_quantiles_do() -> None:
    values = normal(3, 5000)
    rounded = Counter(round(value * 64) for value in values)
    edges = edges_of_histogram(rounded, width=1 / 64)
    assert edges == pytest.approx(quantile_edges(values), abs=2 / 64)
    assert len(edges) == 9
    assert edges_of_histogram({7: 5}, width=0.5) == [3.25, 3.75]  # one value: below, at, above
    with pytest.raises(ValueError):
        edges_of_histogram({}, width=0.5)


def test_without_drift_psi_is_what_chance_says() -> None:
    found = sorted(psi(normal(2 * seed, 400), normal(2 * seed + 1, 300)) for seed in range(200))
    assert sum(found) / len(found) == pytest.approx(psi_mean(400, 300), rel=0.1)
    assert sum(value > psi_noise(400, 300) for value in found) / len(found) == pytest.approx(0.05, abs=0.04)


def slice_of(before: list[float], now: list[float], *, mass: float = 1.0, low: int = 0) -> Slice:
    edges = quantile_edges(before)

    def tally(values: list[float]) -> Tally:
        flags = sum(value >= 1 for value in values)
        bins = tuple(counts_between(values, edges))
        return Tally(bins=bins, n_flag=flags, n_review=0, n_low_mass=low, mean_mass=mass)

    return Slice(
        scan="b", scorer_id=1, scorer="fake", source=None, tally=tally(now), before=tally(before), reference="scan a"
    )


def levels(found: Slice) -> list[str]:
    return [finding.level for finding in judge(found)]


@pytest.mark.parametrize("n", [200, 1000])
def test_without_drift_there_is_hardly_ever_a_word(n: int) -> None:
    said = [levels(slice_of(normal(2 * seed, n), normal(2 * seed + 1, n))) for seed in range(100)]
    assert sum("alarm" in words for words in said) <= 1  # .7 % by the range of margins
    assert sum(bool(words) for words in said) <= 5


@pytest.mark.parametrize("n", [200, 1000])
def test_a_shift_alarms(n: int) -> None:
    said = [levels(slice_of(normal(2 * seed, n), normal(2 * seed + 1, n, mean=0.8))) for seed in range(20)]
    assert all("alarm" in words for words in said)


def test_a_small_shift_is_watched_and_not_alarming() -> None:
    assert levels(slice_of(normal(1, 20_000), normal(2, 20_000, mean=-0.1))) == ["watch"]


def test_too_few_say_so_and_do_not_alarm() -> None:
    (finding,) = judge(slice_of(normal(1, 1000), normal(2, 150, mean=3.0)))
    assert finding.level == "note"
    assert "too few verdicts" in finding.words
    assert "150" in finding.words


def test_little_label_mass_alarms_and_some_is_watched() -> None:
    values = normal(1, 1000)
    assert levels(slice_of(values, values, mass=0.8, low=900)) == ["alarm"]
    assert levels(slice_of(values, values, mass=0.99, low=20)) == ["watch"]
    assert levels(slice_of(values, values, mass=0.999, low=2)) == []


def labels_of(drawn: str, *, overridden: tuple[int, int] = (0, 0), recall: tuple[int, int] = (0, 0)) -> Labels:
    shares = {
        "overridden": Proportion(k=overridden[0], n=overridden[1]),
        "recall": Proportion(k=recall[0], n=recall[1]),
    }
    return Labels(drawn=drawn, missed=Proportion(k=0, n=0), positive=Proportion(k=0, n=0), **shares)  # type: ignore[arg-type]


def test_corrections_alarm_where_a_random_sample_shows_them() -> None:
    def said(found: Labels) -> list[str]:
        return [finding.words for finding in judge_labels("overlay", found, target_recall=0.95)]

    assert len(said(labels_of("random", overridden=(40, 100)))) == 1
    assert said(labels_of("all", overridden=(40, 100))) == []  # hard ones are chosen on purpose
    assert said(labels_of("random", overridden=(8, 20))) == []  # too few
    assert said(labels_of("random", overridden=(25, 100))) == []  # the interval reaches down to 18 %
    (words,) = said(labels_of("random", recall=(70, 100)))
    assert "70.0%" in words
    assert "the target is 95%" in words
    assert said(labels_of("random", recall=(96, 100))) == []


def test_intervals_hold_what_they_should() -> None:
    assert wilson(5, 50) == pytest.approx((0.0434, 0.2136), abs=1e-4)
    low, high = ratio_interval(30, 1000, 10, 1000)
    assert low > 1 > 1 / high
    assert ratio_interval(0, 10, 0, 10)[0] < 1 < ratio_interval(0, 10, 0, 10)[1]
