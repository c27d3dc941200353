"""The time with batches under way, and the device's idle part of it, on a clock that the test sets."""

from contextlib import ExitStack, suppress

from structlog.testing import capture_logs

from scanfleet.worker.batch.timing import Stopwatch, Totals
from scanfleet.worker.device.queue import WorkResult
from scanfleet.worker.processes.timers import StageLog
from scanfleet.worker.runtime.utilisation import Occupancy, Span


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_idle_is_the_time_under_way_without_a_forward() -> None:
    clock = Clock()
    device = Occupancy(clock=clock)
    clock.now += 50  # nothing under way
    with device.batch() as span:
        clock.now += 3
        with device.forward():
            clock.now += 7
        clock.now += 2
        assert span() == Span(under_way=12, idle=5)
    clock.now += 50
    assert device.so_far() == Span(under_way=12, idle=5)


def test_batches_at_once_share_the_time_and_their_shares_add_up() -> None:
    clock = Clock()
    device = Occupancy(clock=clock)
    spans = []
    with ExitStack() as stack:
        spans.append(stack.enter_context(device.batch()))
        clock.now += 4
        spans.append(stack.enter_context(device.batch()))
        with device.forward():
            clock.now += 6
        clock.now += 2
        shares = [span() for span in spans]
    assert shares == [Span(under_way=8, idle=5), Span(under_way=4, idle=1)]
    assert device.so_far() == Span(under_way=12, idle=6)


def test_of_several_streams_idle_is_the_mean() -> None:
    clock = Clock()
    device = Occupancy(streams=4, clock=clock)
    with device.batch(), device.forward():
        clock.now += 8
    assert device.so_far() == Span(under_way=8, idle=6)


def test_a_forward_that_fails_ends_too() -> None:
    clock = Clock()
    device = Occupancy(clock=clock)
    with device.batch():
        with suppress(RuntimeError), device.forward():
            clock.now += 1
            raise RuntimeError
        clock.now += 1
    assert device.so_far() == Span(under_way=2, idle=1)


def test_images_of_a_forward_share_it() -> None:
    watch = Stopwatch()
    reading = RuntimeError("stands for a reading")
    for padding in (0, 6):
        watch.add_first(WorkResult(result=reading, waited=2.0, seconds=0.5, forwards=0.5, tokens=10, padding=padding))
    watch.add_first(WorkResult(result=reading, waited=1.0, seconds=0.0))  # no forward of it came to an end
    sums = watch.sums()
    assert (sums["wait"], sums["device"]) == (5.0, 1.0)
    assert (sums["forwards"], sums["scored"], sums["tokens"], sums["padding"]) == (1, 2, 20, 6)


def test_the_log_says_what_came_since_the_last_word_and_at_the_end_everything() -> None:
    clock = Clock()
    device = Occupancy(clock=clock)
    totals = Totals(device, n_threads=8)
    stages = StageLog(totals)
    with capture_logs() as logs:
        stages.check()
        for _ in range(2):
            with device.batch(), device.forward():
                clock.now += 5
            totals.add(n_images=10, sums={"device": 5.0, "forwards": 2.0, "scored": 10.0, "write": 0.1})
            stages.check()
        stages.check()
        stages.end()
    assert [(line["event"], line["forwards"], line["worker_seconds"]) for line in logs] == [
        ("stage_times", 2, 5.0),
        ("stage_times", 2, 5.0),
        ("stage_times_total", 4, 10.0),
    ]
    assert {line["bottleneck"] for line in logs} == {"device"}
    assert logs[-1]["device_idle_share"] == 0
