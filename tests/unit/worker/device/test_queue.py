"""The next forward: one scorer stays, so that adapters do not alternate, but no image waits for long."""

from __future__ import annotations

from typing import Any, cast

from PIL import Image

from scanfleet.models.fake import FakeScorer
from scanfleet.models.types import Question
from scanfleet.worker.device.queue import STAY_SECONDS, DeviceQueue, WorkItem

QUESTION = Question(name="q", prompt="Is it?", labels=("yes", "no"), flags=frozenset({"yes"}))


class Rig:
    def __init__(self) -> None:
        self.now = 100.0
        self.queue = DeviceQueue(capacity=10_000, one_by_one=False, clock=lambda: self.now)

    def put(self, scorer: FakeScorer) -> None:
        prepared = scorer.prepare(Image.new("RGB", (56, 56)))
        item = WorkItem(
            owner="batch", scorer=cast("Any", scorer), prepared=prepared, on_result=lambda _: None, since=self.now
        )
        self.queue.put(item)

    def take(self) -> object:
        """Take a forward of one image, and return its scorer."""
        (item,) = self.queue.take(lambda _: 4)
        return item.scorer


def test_the_scorer_of_the_last_forward_continues_while_it_has_images() -> None:
    rig, first, second = Rig(), FakeScorer(question=QUESTION), FakeScorer(question=QUESTION)
    for scorer in (first, second, first, second, first):
        rig.put(scorer)
    assert [rig.take() for _ in range(5)] == [first, first, first, second, second]


def test_an_image_that_has_waited_long_comes_first() -> None:
    rig, first, second = Rig(), FakeScorer(question=QUESTION), FakeScorer(question=QUESTION)
    rig.put(first)
    assert rig.take() is first
    rig.put(second)
    rig.now += STAY_SECONDS / 2
    rig.put(first)
    assert rig.take() is first
    rig.put(first)
    rig.now += STAY_SECONDS / 2
    assert rig.take() is second
