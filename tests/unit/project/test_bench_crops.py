"""The figures of the benchmark of crops, against cases counted by hand."""

import numpy as np
import pytest

from bench.crops.figures import accuracy, change, holds, recall_at, voted
from scanfleet.models.relevance.regions import Region
from scanfleet.models.types import Box

TRUTH = np.array([True] * 20 + [False] * 20)


def test_recall_counts_targets_over_the_margin_that_one_in_twenty_of_the_others_exceeds() -> None:
    others = np.arange(20.0)  # one may exceed 18
    targets = np.concatenate([np.full(15, 18.5), np.full(5, 18.0)])
    assert recall_at(np.concatenate([targets, others]), TRUTH) == 0.75


def test_a_change_has_an_interval_around_it_and_none_where_nothing_changed() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(size=40)
    after = before + np.where(TRUTH, 1.5, 0.0)
    moved = change(accuracy, before, after, TRUTH)
    assert moved.low < moved.points < moved.high
    assert moved.points == pytest.approx(100 * (accuracy(after, TRUTH) - accuracy(before, TRUTH)))
    still = change(recall_at, before, before, TRUTH)
    assert (still.low, still.points, still.high) == (0, 0, 0)


@pytest.mark.parametrize(("x0", "held"), [(0, True), (5, True), (6, False), (40, False)])
def test_a_region_holds_a_target_that_it_shows_most_of(x0: int, held: bool) -> None:
    box = Box(x0=0, y0=0, x1=20, y1=10, label="")
    assert holds(Region(x0=x0, y0=0, x1=x0 + 30, y1=30), box) is held


def test_regions_of_several_maps_vote_for_the_place_that_most_of_them_found() -> None:
    here, there = Region(x0=0, y0=0, x1=10, y1=10), Region(x0=50, y0=50, x1=60, y1=60)
    found = voted([there, here, here], (100, 100), "wbf")
    assert found == here
    assert voted([], (100, 100), "nms") is None
