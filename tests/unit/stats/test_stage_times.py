"""Where the time goes, from the sums of workers: shares, and which stage holds up the others."""

import pytest

from scanfleet.stats.stage_times import ADVICE, NAMES, StageTimes

STARVED = {
    "fetch": 6.0, "decode": 50.0, "prepare": 10.0, "threads": 80.0, "wait": 1.0, "device": 4.0,
    "under_way": 10.0, "idle": 6.0, "forwards": 20.0, "scored": 200.0, "tokens": 1000.0, "padding": 50.0,
}  # fmt: skip


def test_shares_of_the_sums() -> None:
    times = StageTimes(sums=STARVED)
    assert times.idle_share == pytest.approx(0.6)
    assert times.padding_share == pytest.approx(0.05)
    assert times.images_per_forward == pytest.approx(10)
    assert times.images_per_second == pytest.approx(20)


def test_second_looks_fill_forwards_and_those_skipped_were_due() -> None:
    times = StageTimes(
        sums=STARVED | {"again": 7, "again_rows": 20, "capped": 2, "again_diffuse": 3, "again_enough": 1}
    )
    assert times.images_per_forward == pytest.approx(11)
    assert times.images_per_second == pytest.approx(20)  # images alone
    assert (times.due, times.skipped) == (13, {"cap": 2, "diffuse": 3, "enough": 1})
    assert times.record()["not_looked_again"] == times.skipped


@pytest.mark.parametrize(
    ("changed", "bottleneck"),
    [
        ({}, "decode"),
        ({"fetch": 55.0, "decode": 10.0}, "fetch"),
        ({"prepare": 60.0}, "prepare"),
        ({"idle": 1.4}, "device"),
        ({"idle": 1.54}, "device"),  # 15 %, as people see it, is no more than the limit
        ({"idle": 1.56}, "decode"),
        ({"fetch": 1.0, "decode": 20.0}, "batches"),  # the stage threads themselves had little to do
    ],
)
def test_the_bottleneck_is_what_the_others_wait_for(changed: dict[str, float], bottleneck: str) -> None:
    times = StageTimes(sums=STARVED | changed)
    assert times.bottleneck == bottleneck
    assert ADVICE[bottleneck]


def test_without_data_nothing_is_reported() -> None:
    times = StageTimes(sums={})
    assert (times.idle_share, times.padding_share, times.images_per_forward, times.bottleneck) == (None,) * 4
    assert times.record()["images_per_worker_second"] is None


def test_the_sums_of_a_time_are_those_that_came_to_it() -> None:
    now = StageTimes(sums={name: 3 * value for name, value in STARVED.items()})
    assert {name: now.since(StageTimes(sums=STARVED))[name] for name in NAMES} == {
        name: pytest.approx(2 * STARVED.get(name, 0.0)) for name in NAMES
    }


def test_a_record_from_before_a_name_was_measured_counts_as_nothing() -> None:
    assert StageTimes(sums={"fetch": 1.0})["forwards"] == 0
