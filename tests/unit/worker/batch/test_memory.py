"""A device without memory for an image: the image waits, the others are scored, and there is no failure."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from scanfleet.errors import DeviceUnavailable
from scanfleet.models.fake import FakePrepared, FakeScorer
from scanfleet.models.types import Question, Reading, Scorer
from scanfleet.worker.errors import OutOfDeviceMemory
from scanfleet.worker.scoring.model import FakeModel
from tests.rigs.worker_rig import plain, png, rig

LARGE_TOKENS = 100


class TightModel(FakeModel):
    """Has no memory for large images while `tight`, and is unavailable while `unavailable`."""

    def __init__(self) -> None:
        super().__init__()
        self.tight = threading.Event()
        self.unavailable = threading.Event()

    def scorer(self, question: Question, adapter: Path | None) -> Scorer:
        return cast("Scorer", TightScorer(question, self))


class TightScorer(FakeScorer):
    def __init__(self, question: Question, model: TightModel) -> None:
        super().__init__(question=question)
        self._model = model

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        if self._model.unavailable.is_set():
            raise DeviceUnavailable("the model server is unavailable")
        if self._model.tight.is_set() and max(image.visual_tokens for image in prepared) > LARGE_TOKENS:
            raise OutOfDeviceMemory(f"the device has no memory for {len(prepared)} image(s) at once")
        return super().score(prepared)


def test_an_image_without_memory_waits_and_its_neighbours_are_scored(tmp_path: Path) -> None:
    model = TightModel()
    model.tight.set()
    contents = {f"mem://{number}": png(number) for number in range(7)} | {"mem://large": plain(1000, 1000)}
    with rig(tmp_path, model=model, max_image_pixels=10_000_000) as worker:
        scan = worker.scan(contents)
        worker.pipeline.run(None)
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (7, 0, 1)
        assert worker.states()["mem://large"] == "pending"
        assert progress.waiting_for == "the device has no memory for 1 image(s) at once"
        worker.forget_backoff()
        worker.pipeline.run(None)
        assert worker.failures() == {}  # alone in its batch now
        model.tight.clear()
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 8


def test_a_device_that_is_unavailable_fails_no_image(tmp_path: Path) -> None:
    model = TightModel()
    model.unavailable.set()
    with rig(tmp_path, model=model) as worker:
        scan = worker.scan({f"mem://{number}": png(number) for number in range(8)})
        worker.pipeline.run(None)
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (0, 0, 8)
        assert progress.waiting_for == "the model server is unavailable"
        model.unavailable.clear()
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 8
