"""How many decoders a worker has: it follows what the device waits for, on a clock that the test sets."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from scanfleet.decoding.pool import Decoders
from scanfleet.decoding.seats import Seats
from scanfleet.worker.processes.decoder_count import CALM_CHECKS, FIRST, DecoderCount
from scanfleet.worker.runtime.utilisation import Occupancy
from tests.rigs.worker_rig import png, rig


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A worker with a batch under way, and as many decoders as are allowed."""

    def __init__(self, *, most: int) -> None:
        self.clock = Clock()
        self.device = Occupancy(clock=self.clock)
        self.most_children = most
        self.seats = Seats(most)
        self.count = DecoderCount(cast("Decoders", self), self.device)

    def pass_time(self, *, idle: float, lacked: bool) -> int:
        """A second in which the device is idle for a share; lacked: and a thread found no decoder free."""
        with self.device.forward():
            self.clock.now += 1 - idle
        self.clock.now += idle
        if lacked:
            with ExitStack() as taken:
                for _ in range(self.seats.n):
                    taken.enter_context(self.seats.taken(alone=False))
                waiting = threading.Thread(target=self._take)
                waiting.start()
                while not self.seats._lacked:
                    waiting.join(0.001)
            waiting.join()
        self.count.check()
        return self.seats.n

    def _take(self) -> None:
        with self.seats.taken(alone=False):
            pass


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(most=5)
    with made.device.batch():
        yield made


def test_one_more_as_long_as_the_device_waits_for_decoders(bench: Bench) -> None:
    assert [bench.pass_time(idle=0.5, lacked=True) for _ in range(5)] == [3, 4, 5, 5, 5]


@pytest.mark.parametrize(("idle", "lacked"), [(0.5, False), (0.01, True)])
def test_none_more_where_another_would_not_help(bench: Bench, idle: float, lacked: bool) -> None:
    """The store is what the device waits for, or it does not wait."""
    assert {bench.pass_time(idle=idle, lacked=lacked) for _ in range(20)} == {FIRST}


def test_one_fewer_after_a_long_time_without_waiting_and_never_none(bench: Bench) -> None:
    for _ in range(3):
        bench.pass_time(idle=0.5, lacked=True)
    found = [bench.pass_time(idle=0.0, lacked=True) for _ in range(6 * CALM_CHECKS)]
    assert [found[at] for at in range(0, len(found), CALM_CHECKS)] == [5, 4, 3, 2, 1, 1]
    assert bench.pass_time(idle=0.5, lacked=True) == 2


def test_a_time_without_batches_says_nothing() -> None:
    idle = Bench(most=5)
    for _ in range(3 * CALM_CHECKS):
        assert idle.pass_time(idle=1.0, lacked=True) == FIRST


def test_no_more_than_there_are_cores() -> None:
    assert Bench(most=1).seats.n == 1


def test_a_worker_counts_its_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    plain = DecoderCount.check
    monkeypatch.setattr(DecoderCount, "check", lambda self: (plain(self), checked.append(1)))
    with rig(tmp_path, fetch_threads=1) as worker:
        scan = worker.scan({"mem://a": png(1)})
        worker.drain()
        assert worker.progress(scan).n_verdicts == 1
        assert worker.pipeline._context.decoders.seats.n == 1
    assert checked
