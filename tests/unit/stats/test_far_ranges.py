"""Far images that are answered alike: a part too small to show in the margins, or among the far images, of a scan."""

import random

from scanfleet.stats.counts import Slice, Tally
from scanfleet.stats.drift import Finding, judge
from scanfleet.stats.psi import counts_between, quantile_edges

N = 1000
Scan = list[tuple[float, bool]]  # margin, far


def known(draw: random.Random, n: int) -> Scan:
    """Three tenths positive, a tenth far, whatever the margin."""
    return [(draw.gauss(4 if draw.random() < 0.3 else -4, 2), draw.random() < 0.1) for _ in range(n)]


def new(draw: random.Random, n: int) -> Scan:
    """Sure positives, hardly a half of them far."""
    return [(draw.gauss(4, 1), draw.random() < 0.45) for _ in range(n)]


def slice_of(before: Scan, now: Scan) -> Slice:
    edges = quantile_edges([margin for margin, _ in before])
    return slice_of_tallies(
        *(tally([m for m, _ in each], [m for m, far in each if far], edges) for each in (before, now))
    )


def tally(margins: list[float], of_far: list[float], edges: list[float]) -> Tally:
    return tally_of(counts_between(margins, edges), counts_between(of_far, edges))


def tally_of(bins: list[int], far_bins: list[int]) -> Tally:
    return Tally(
        bins=tuple(bins),
        n_flag=0,
        n_review=0,
        n_low_mass=0,
        mean_mass=1.0,
        n_far=sum(far_bins),
        n_compared=sum(bins),
        far_bins=tuple(far_bins),
    )


def slice_of_tallies(before: Tally, now: Tally) -> Slice:
    return Slice(
        scan="b",
        scorer_id=1,
        scorer="fake",
        source=None,
        tally=now,
        before=before,
        reference="scan a",
        n_calibration=200,
    )


def alarmed(found: Slice) -> list[Finding]:
    return [finding for finding in judge(found) if finding.level == "alarm"]


def test_a_tenth_of_new_images_alarms_though_their_margins_are_common() -> None:
    n_alarms = 0
    for seed in range(50):
        draw = random.Random(seed)
        n_alarms += bool(alarmed(slice_of(known(draw, N), known(draw, N - N // 10) + new(draw, N // 10))))
    assert n_alarms >= 40  # .68 of them by margins, and by the number of far images, alone


def test_chance_does_not() -> None:
    draws = [random.Random(seed) for seed in range(100)]
    assert sum(bool(alarmed(slice_of(known(draw, N), known(draw, N)))) for draw in draws) <= 2


def test_the_range_is_named() -> None:
    before, now = [10] * 10, [10] * 10
    now[7] += 40
    (found,) = alarmed(slice_of_tallies(tally_of([100] * 10, before), tally_of([100] * 10, now)))
    assert found.words == (
        "scan b: images of a new kind: 5.0% of the images are far from those of the calibration and have margins in "
        "decile 8, 1.0% in scan a"
    )


def test_as_many_far_images_spread_over_all_margins_are_watched() -> None:
    (found,) = judge(slice_of_tallies(tally_of([1000] * 10, [100] * 10), tally_of([1000] * 10, [140] * 10)))
    assert (found.level, "images of a new kind" in found.words) == ("watch", True)


def test_a_change_that_is_certain_and_small_does_not_alarm() -> None:
    before, now = [1000] * 10, [1000] * 10
    now[7] += 1500  # 1.5 % of all, 30 standard errors
    assert alarmed(slice_of_tallies(tally_of([10_000] * 10, before), tally_of([10_000] * 10, now))) == []
