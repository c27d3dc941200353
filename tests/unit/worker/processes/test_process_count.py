"""How many processes share a device."""

import pytest

from scanfleet.worker.processes.process_count import MOST, ProcessCount, Span


def span(count: ProcessCount, *, rate: float, idle: float = 30.0, **other: float) -> Span:
    given = {"under_way": 60.0, "free_cores": 4.0, "n_ready": count.n} | other
    return Span(seconds=60.0, scored=60 * rate, idle=idle, **given)  # type: ignore[arg-type]


def test_one_more_as_long_as_it_helps_and_the_last_goes_for_good() -> None:
    count = ProcessCount()
    assert count.check(span(count, rate=200)) == 2
    assert count.check(span(count, rate=390)) == 3
    assert count.check(span(count, rate=400)) == 2
    assert [count.check(span(count, rate=400)) for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize(
    "other",
    [{"idle": 5.0}, {"free_cores": 0.5}, {"under_way": 30.0}, {"n_ready": 0}],
    ids=lambda each: next(iter(each)),
)
def test_none_more_for_a_busy_device_a_full_host_or_without_knowledge(other: dict[str, float]) -> None:
    count = ProcessCount()
    assert count.check(span(count, rate=200, **other)) == 1


def test_a_process_is_not_judged_before_it_is_ready_or_by_a_window_without_work() -> None:
    count = ProcessCount()
    count.check(span(count, rate=200))
    assert count.check(span(count, rate=200, n_ready=1)) == 2
    assert count.check(span(count, rate=10, under_way=6.0)) == 2
    assert count.check(span(count, rate=200)) == 1


def test_there_is_a_bound() -> None:
    count = ProcessCount()
    rates = [100 * 2**step for step in range(MOST + 4)]
    assert [count.check(span(count, rate=rate)) for rate in rates][-1] == MOST
