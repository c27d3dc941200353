"""The device thread: packing, and failed forwards."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, cast

import pytest
from PIL import Image

from scanfleet.errors import DeviceUnavailable
from scanfleet.models.fake import FakePrepared, FakeScorer
from scanfleet.models.types import Question, Reading, Scorer
from scanfleet.worker.device.executor import Device
from scanfleet.worker.device.queue import WorkResult
from scanfleet.worker.device.token_budget import RAISE_AFTER, TokenBudget
from scanfleet.worker.errors import DeviceBroken, OutOfDeviceMemory

QUESTION = Question(name="q", prompt="Is it?", labels=("yes", "no"), flags=frozenset({"yes"}))


class ScriptedScorer(FakeScorer):
    """Runs a hook before each forward; forwards of one wait at a gate while it is closed."""

    def __init__(self, before: Callable[[Sequence[FakePrepared]], None] = lambda _: None) -> None:
        super().__init__(question=QUESTION)
        self.before = before
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.costs: list[int] = []

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        self.entered.set()
        assert self.gate.wait(30)
        self.before(prepared)
        self.costs.append(len(prepared) * max(image.visual_tokens for image in prepared))
        return super().score(prepared)


@dataclass
class Bench:
    device: Device
    results: SimpleQueue[tuple[int, WorkResult]] = field(default_factory=SimpleQueue)

    def submit(self, number: int, scorer: FakeScorer, *, side: int = 56, owner: object = "batch") -> None:
        prepared = scorer.prepare(Image.new("RGB", (side, side), (number % 256, 0, 0)))
        self.device.submit(
            owner=owner,
            scorer=cast("Scorer", scorer),
            prepared=prepared,
            on_result=lambda result: self.results.put((number, result)),
        )

    def take(self, n: int) -> dict[int, WorkResult]:
        return dict(self.results.get(timeout=30) for _ in range(n))


@contextmanager
def bench(**options: Any) -> Iterator[Bench]:
    device = Device(**options)
    device.start()
    try:
        yield Bench(device)
    finally:
        device.stop()


def held_back(rig: Bench, scorer: ScriptedScorer) -> None:
    """Keep the device busy with one image until the gate opens, so that others pile up."""
    rig.submit(0, scorer)
    assert scorer.entered.wait(30)


def test_images_that_wait_go_together_within_the_budget() -> None:
    scorer = ScriptedScorer()
    with bench(token_budget=20) as rig:  # 56 x 56 pixels are 4 tokens
        held_back(rig, scorer)
        for number in range(1, 10):
            rig.submit(number, scorer, owner=f"batch {number % 3}")
        scorer.gate.set()
        assert len(rig.take(10)) == 10
    assert scorer.calls == [1, 5, 4]
    assert max(scorer.costs) <= 20


def test_an_image_over_the_budget_goes_alone() -> None:
    scorer = ScriptedScorer()
    with bench(token_budget=5) as rig:
        held_back(rig, scorer)
        rig.submit(1, scorer, side=280)
        scorer.gate.set()
        assert all(isinstance(work.result, Reading) for work in rig.take(2).values())
    assert scorer.calls == [1, 1]


def test_scorers_are_never_mixed_and_the_longest_waiting_comes_first() -> None:
    first, second = ScriptedScorer(), ScriptedScorer()
    second.gate.set()
    with bench(token_budget=1000) as rig:
        held_back(rig, first)
        rig.submit(1, second)
        rig.submit(2, first)
        rig.submit(3, second)
        first.gate.set()
        rig.take(4)
    assert (first.calls, second.calls) == ([1, 1], [2])


def test_the_neighbours_do_not_move_a_margin() -> None:
    alone, together = ScriptedScorer(), ScriptedScorer()
    alone.gate.set()
    with bench(token_budget=1000) as rig:
        single = {}
        for number in range(6):
            rig.submit(number, alone)
            single |= rig.take(1)
        held_back(rig, together)
        for number in range(1, 6):
            rig.submit(number, together)
        together.gate.set()
        many = rig.take(6)
    assert together.calls == [1, 5]
    assert {n: work.result for n, work in single.items()} == {n: work.result for n, work in many.items()}


def test_out_of_memory_halves_the_budget_and_loses_nothing() -> None:
    def too_many(prepared: Sequence[FakePrepared]) -> None:
        if len(prepared) > 2:
            raise OutOfDeviceMemory("out of memory")

    scorer = ScriptedScorer(too_many)
    with bench(token_budget=40) as rig:
        held_back(rig, scorer)
        for number in range(1, 10):
            rig.submit(number, scorer)
        scorer.gate.set()
        assert all(isinstance(work.result, Reading) for work in rig.take(10).values())
        assert rig.device.token_budget < 12
    assert max(scorer.calls) == 2


def test_the_budget_grows_back_when_there_is_memory_again() -> None:
    tight = threading.Event()
    tight.set()

    def sometimes(prepared: Sequence[FakePrepared]) -> None:
        if tight.is_set() and len(prepared) > 2:
            raise OutOfDeviceMemory("another program holds the memory")

    scorer = ScriptedScorer(sometimes)
    with bench(token_budget=40) as rig:  # ten images
        held_back(rig, scorer)
        for number in range(1, 10):
            rig.submit(number, scorer)
        scorer.gate.set()
        rig.take(10)
        assert rig.device.token_budget < 12
        tight.clear()
        for _ in range(6 * RAISE_AFTER):
            rig.submit(1, scorer, side=168)  # 36 tokens: more than half of any budget up to the full one
            assert all(isinstance(work.result, Reading) for work in rig.take(1).values())
        assert rig.device.token_budget == 40


def test_a_raised_budget_that_fails_again_is_tried_later_each_time() -> None:
    budget = TokenBudget(100)

    def forwards_until_raised() -> int:
        n = 1
        while not budget.count_success(budget.tokens):
            n += 1
        return n

    budget.shrink(100)
    assert budget.tokens == 50
    waits = []
    for _ in range(3):
        waits.append(forwards_until_raised())
        assert budget.tokens == 75
        budget.shrink(100)
        budget.tokens = 50
    assert waits == [RAISE_AFTER, 2 * RAISE_AFTER, 4 * RAISE_AFTER]
    assert not any(budget.count_success(10) for _ in range(10 * RAISE_AFTER))  # small forwards prove nothing


def test_an_image_that_does_not_fit_even_alone_waits_and_is_no_failure() -> None:
    def never(prepared: Sequence[FakePrepared]) -> None:
        raise OutOfDeviceMemory("out of memory")

    scorer = ScriptedScorer(never)
    scorer.gate.set()
    with bench(token_budget=40) as rig:
        rig.submit(1, scorer)
        assert isinstance(rig.take(1)[1].result, DeviceUnavailable)


def test_an_image_that_crashes_the_forward_does_not_touch_its_neighbours() -> None:
    poison = ScriptedScorer().prepare(Image.new("RGB", (56, 56), (3, 0, 0))).digest

    def crash(prepared: Sequence[FakePrepared]) -> None:
        if any(image.digest == poison for image in prepared):
            raise IndexError("a bug")

    scorer = ScriptedScorer(crash)
    with bench(token_budget=1000) as rig:
        held_back(rig, scorer)
        for number in range(1, 6):
            rig.submit(number, scorer)
        scorer.gate.set()
        results = rig.take(6)
    assert [number for number, work in results.items() if isinstance(work.result, IndexError)] == [3]


def test_a_broken_device_is_reported_and_answers_everyone() -> None:
    def breaks(prepared: Sequence[FakePrepared]) -> None:
        raise DeviceBroken("illegal access")

    reported = threading.Event()
    scorer = ScriptedScorer(breaks)
    scorer.gate.set()
    with bench(token_budget=40, on_broken=reported.set) as rig:
        rig.submit(1, scorer)
        assert isinstance(rig.take(1)[1].result, DeviceBroken)
        assert reported.wait(30)


def test_a_producer_of_images_blocks_while_the_queue_is_full() -> None:
    scorer = ScriptedScorer()
    with bench(token_budget=8) as rig:  # four images may wait
        held_back(rig, scorer)
        through = threading.Semaphore(0)

        def produce() -> None:
            for number in range(1, 8):
                rig.submit(number, scorer)
                through.release()

        producer = threading.Thread(target=produce)
        producer.start()
        for _ in range(4):
            assert through.acquire(timeout=30)
        assert not through.acquire(timeout=0.2)  # the fifth is not taken
        scorer.gate.set()
        producer.join(30)
        assert len(rig.take(8)) == 8


def test_images_larger_than_the_budget_wait_one_for_each_forward() -> None:
    scorer = ScriptedScorer()
    with bench(token_budget=1) as rig:  # an image has four tokens and goes alone: two forwards may wait, so two images
        held_back(rig, scorer)
        producer = threading.Thread(target=lambda: [rig.submit(number, scorer) for number in (1, 2)], daemon=True)
        producer.start()
        producer.join(30)
        assert not producer.is_alive()
        scorer.gate.set()
        assert len(rig.take(3)) == 3


def test_work_items_of_a_forgotten_owner_are_neither_scored_nor_answered() -> None:
    scorer = ScriptedScorer()
    with bench(token_budget=1000) as rig:
        held_back(rig, scorer)
        rig.submit(1, scorer, owner="aborted")
        rig.submit(2, scorer, owner="other")
        rig.device.forget("aborted")
        scorer.gate.set()
        assert set(rig.take(2)) == {0, 2}
    assert scorer.calls == [1, 1]


def test_stopping_answers_waiting_images_and_refuses_new_ones() -> None:
    scorer = ScriptedScorer()
    with bench(token_budget=1000) as rig:
        held_back(rig, scorer)
        rig.submit(1, scorer)
        stopping = threading.Thread(target=rig.device.stop)
        stopping.start()
        assert isinstance(rig.take(1)[1].result, DeviceUnavailable)
        scorer.gate.set()
        stopping.join(30)
        assert isinstance(rig.take(1)[0].result, Reading)  # the forward under way was finished
        with pytest.raises(DeviceUnavailable):
            rig.submit(2, scorer)


def test_each_stream_runs_a_forward_of_its_own() -> None:
    """All three are inside a forward at once, or the barrier breaks and no reading comes."""
    together = threading.Barrier(3)

    def meet(_: Sequence[FakePrepared]) -> None:
        together.wait(30)

    scorer = ScriptedScorer(meet)
    scorer.gate.set()
    with bench(token_budget=1000, streams=3, one_by_one=True) as rig:
        for number in range(6):
            rig.submit(number, scorer)
        assert all(isinstance(work.result, Reading) for work in rig.take(6).values())
    assert scorer.calls == [1] * 6


def test_a_hung_forward_stays_the_oldest_while_other_streams_continue() -> None:
    hung, quick = ScriptedScorer(), ScriptedScorer()
    quick.gate.set()
    with bench(token_budget=1000, streams=2, one_by_one=True) as rig:
        held_back(rig, hung)
        first = rig.device.forward
        for number in range(1, 6):
            rig.submit(number, quick)
        rig.take(5)
        assert first is not None
        assert rig.device.forward == first
        hung.gate.set()
        rig.take(1)
    assert rig.device.forward is None


def test_one_by_one_two_images_wait_for_each_stream() -> None:
    scorer = ScriptedScorer()
    with bench(token_budget=1_000_000, streams=2, one_by_one=True) as rig:
        held_back(rig, scorer)
        scorer.entered.clear()
        held_back(rig, scorer)
        through = threading.Semaphore(0)

        def produce() -> None:
            for number in range(1, 6):
                rig.submit(number, scorer)
                through.release()

        producer = threading.Thread(target=produce)
        producer.start()
        for _ in range(4):
            assert through.acquire(timeout=30)
        assert not through.acquire(timeout=0.2)  # the fifth is not taken
        scorer.gate.set()
        producer.join(30)


def test_a_device_that_breaks_in_every_stream_is_reported_once() -> None:
    together = threading.Barrier(2)

    def breaks(_: Sequence[FakePrepared]) -> None:
        together.wait(30)
        raise DeviceBroken("illegal access")

    reported: list[str] = []
    scorer = ScriptedScorer(breaks)
    scorer.gate.set()
    with bench(token_budget=40, streams=2, one_by_one=True, on_broken=lambda: reported.append("broken")) as rig:
        rig.submit(1, scorer)
        rig.submit(2, scorer)
        assert all(isinstance(work.result, DeviceBroken) for work in rig.take(2).values())
    assert reported == ["broken"]
