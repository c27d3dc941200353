"""A part of the images is of another kind: found in a range of margins, or outside all that was seen before."""

import random
from collections.abc import Callable

import pytest

from scanfleet.stats.counts import Slice, Tally
from scanfleet.stats.drift import judge
from scanfleet.stats.psi import counts_between, quantile_edges
from scanfleet.stats.shares import least_z, most_moved, outside_by_chance


def two_kinds(draw: random.Random, n: int, share: float = 0.1) -> list[float]:
    return [draw.gauss(3 if draw.random() < share else -3, 1.7) for _ in range(n)]


def slice_of(before: list[float], now: list[float]) -> Slice:
    edges, low, high = quantile_edges(before), min(before), max(before)

    def tally(values: list[float]) -> Tally:
        return Tally(
            bins=tuple(counts_between(values, edges)),
            n_flag=0,
            n_review=0,
            n_low_mass=0,
            mean_mass=1.0,
            n_outside=sum(not low <= value <= high for value in values),
        )

    return Slice(
        scan="b", scorer_id=1, scorer="fake", source=None, tally=tally(now), before=tally(before), reference="scan a"
    )


def alarms(n: int, replace: Callable[[random.Random], float] | None, *, pairs: int = 100) -> int:
    """The pairs of scans that alarm when a tenth of the second one is replaced."""
    n_alarms = 0
    for seed in range(pairs):
        draw = random.Random(seed)
        before, now = two_kinds(draw, n), two_kinds(draw, n)
        if replace is not None:
            now[: n // 10] = [replace(draw) for _ in range(n // 10)]
        n_alarms += any(finding.level == "alarm" for finding in judge(slice_of(before, now)))
    return n_alarms


@pytest.mark.parametrize(
    "replace",
    [lambda draw: draw.gauss(0, 0.7), lambda draw: draw.gauss(4, 1), lambda draw: draw.gauss(15, 1)],
    ids=["unsure", "sure", "outside"],
)
def test_a_tenth_of_new_material_alarms(replace: Callable[[random.Random], float]) -> None:
    assert alarms(1000, replace) >= 80


@pytest.mark.parametrize("n", [200, 1000])
def test_chance_does_not(n: int) -> None:
    assert alarms(n, None) <= 2


def test_the_range_that_moved_is_named() -> None:
    before, now = [100] * 10, [100] * 10
    now[3] += 60
    now[4] += 60
    moved = most_moved(before, now)
    assert (moved.first, moved.last, moved.before) == (3, 4, 0.2)
    assert moved.change == pytest.approx(320 / 1120 - 0.2)
    assert moved.z > least_z(10, level=0.01)


def test_a_bound_holds_for_all_ranges_together() -> None:
    draw = random.Random(5)
    edges = [i / 10 for i in range(1, 10)]

    def z() -> float:
        halves = [counts_between([draw.random() for _ in range(500)], edges) for _ in range(2)]
        return abs(most_moved(*halves).z)

    assert sum(z() >= least_z(10, level=0.05) for _ in range(400)) <= 20


def test_few_values_outside_are_chance() -> None:
    assert outside_by_chance(0, 100, n_before=100) == 1
    # By simulation: 20,000 draws of 200 and 200 normal values, of which 1.935 % have 8 or more outside.
    assert outside_by_chance(8, 200, n_before=200) == pytest.approx(0.01935, abs=0.002)


def test_histograms_over_other_bins_are_refused() -> None:
    with pytest.raises(ValueError):
        most_moved([1, 2], [1, 2, 3])
