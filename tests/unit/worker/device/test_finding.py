"""Finding boxes and scoring on one device: which goes first, and long forwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import cast

from PIL import Image

from scanfleet.errors import DeviceUnavailable
from scanfleet.models.fake import FakeFinder, FakePrepared
from scanfleet.models.types import Finder, FoundBoxes, Reading
from scanfleet.worker.device.queue import FORWARDS_BEFORE_FINDING, WorkResult
from scanfleet.worker.errors import OutOfDeviceMemory
from tests.unit.worker.device.test_executor import QUESTION, Bench, ScriptedScorer, bench, held_back


class Recorded(ScriptedScorer):
    """Records the order of its forwards."""

    def __init__(self, order: list[str], name: str) -> None:
        super().__init__(lambda _: order.append(name))


class RecordedFinder(FakeFinder):
    def __init__(self, order: list[str]) -> None:
        super().__init__(question=QUESTION)
        self._order = order

    def find(self, jobs: Sequence[FakePrepared], *, heartbeat: Callable[[], None] = lambda: None) -> list[FoundBoxes]:
        self._order.append("find")
        return super().find(jobs, heartbeat=heartbeat)


def ask(rig: Bench, number: int, finder: FakeFinder, scorer: ScriptedScorer, *, owner: object = "batch") -> None:
    prepared = scorer.prepare(Image.new("RGB", (56, 56), (number, 0, 0)))
    rig.device.submit_finding(
        owner=owner,
        finder=cast("Finder", finder),
        prepared=prepared,
        on_result=lambda result: rig.results.put((number, result)),
    )


def test_finding_waits_for_scoring_and_collects_for_one_forward() -> None:
    order: list[str] = []
    scorers = [Recorded(order, name) for name in "abc"]
    finder = RecordedFinder(order)
    for scorer in scorers[1:]:
        scorer.gate.set()
    with bench(token_budget=1000) as rig:
        held_back(rig, scorers[0])
        ask(rig, 1, finder, scorers[0])
        rig.submit(2, scorers[1])
        ask(rig, 3, finder, scorers[0])
        rig.submit(4, scorers[2])
        scorers[0].gate.set()
        results = rig.take(5)
    assert order == ["a", "b", "c", "find"]
    assert finder.calls == [2]
    assert isinstance(results[1].result, FoundBoxes)
    assert isinstance(results[2].result, Reading)


def test_finding_does_not_wait_for_ever() -> None:
    order: list[str] = []
    first, finder = Recorded(order, "s"), RecordedFinder(order)
    others = [Recorded(order, "s") for _ in range(FORWARDS_BEFORE_FINDING + 3)]
    for scorer in others:
        scorer.gate.set()
    with bench(token_budget=1000) as rig:
        held_back(rig, first)
        ask(rig, 100, finder, first)
        for number, scorer in enumerate(others):
            rig.submit(number + 1, scorer)
        first.gate.set()
        rig.take(len(others) + 2)
    assert order.index("find") == 1 + FORWARDS_BEFORE_FINDING
    assert order.count("s") == 1 + len(others)


def test_finding_that_runs_out_of_memory_gets_smaller_and_leaves_scoring_as_it_is() -> None:
    scorer = ScriptedScorer()

    class Large(FakeFinder):
        def find(
            self, jobs: Sequence[FakePrepared], *, heartbeat: Callable[[], None] = lambda: None
        ) -> list[FoundBoxes]:
            if len(jobs) > 2:
                raise OutOfDeviceMemory("out of memory")
            return super().find(jobs, heartbeat=heartbeat)

    finder = Large(question=QUESTION)
    with bench(token_budget=1000) as rig:
        held_back(rig, scorer)
        for number in range(1, 9):
            ask(rig, number, finder, scorer)
        scorer.gate.set()
        results = rig.take(9)
        assert rig.device.token_budget == 1000
    assert all(isinstance(results[number].result, FoundBoxes) for number in range(1, 9))
    assert max(finder.calls) <= 2


def test_a_long_forward_that_makes_progress_counts_as_a_new_one() -> None:
    scorer, seen = ScriptedScorer(), []

    class Slow(FakeFinder):
        def find(
            self, jobs: Sequence[FakePrepared], *, heartbeat: Callable[[], None] = lambda: None
        ) -> list[FoundBoxes]:
            for _ in range(3):
                seen.append(rig.device.forward)
                heartbeat()
            return super().find(jobs, heartbeat=heartbeat)

    with bench(token_budget=1000) as rig:
        ask(rig, 1, Slow(question=QUESTION), scorer)
        rig.take(1)
        scorer.gate.set()
        rig.submit(2, scorer)
        rig.take(1)
        idle = rig.device.forward
    assert len(set(seen)) == 3
    assert None not in seen
    assert idle is None


def test_a_worker_that_stops_does_not_wait_for_a_long_answer() -> None:
    begun, resume = threading.Event(), threading.Event()
    answers: SimpleQueue[WorkResult] = SimpleQueue()
    scorer = ScriptedScorer()

    class Endless(FakeFinder):
        def find(
            self, jobs: Sequence[FakePrepared], *, heartbeat: Callable[[], None] = lambda: None
        ) -> list[FoundBoxes]:
            begun.set()
            assert resume.wait(30)
            while True:
                heartbeat()

    with bench(token_budget=1000) as rig:
        rig.device.submit_finding(
            owner="batch",
            finder=cast("Finder", Endless(question=QUESTION)),
            prepared=scorer.prepare(Image.new("RGB", (56, 56))),
            on_result=answers.put,
        )
        assert begun.wait(30)
        rig.device.stop(wait_seconds=0)
        resume.set()
        assert isinstance(answers.get(timeout=30).result, DeviceUnavailable)
    assert rig.device.forward is None
