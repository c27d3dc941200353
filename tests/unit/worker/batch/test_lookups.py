"""A batch looks up bytes in the ledger for several images at once while the device is busy."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from scanfleet.models.fake import FakePrepared, FakeScorer
from scanfleet.models.types import Question, Reading, Scorer
from scanfleet.storage.base import FetchedObject
from scanfleet.storage.memory import MemoryStore
from scanfleet.worker.scoring.model import FakeModel
from tests.rigs.worker_rig import png, rig

FETCH_THREADS = 4
N_IMAGES = 40
FETCH_SECONDS = 0.01
MOST = FETCH_THREADS + N_IMAGES // FETCH_THREADS + 1  # the first ones one by one, as the threads are free


class Gated(FakeScorer):
    def __init__(self, question: Question, gate: threading.Event) -> None:
        super().__init__(question=question)
        self._gate = gate

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        assert self._gate.wait(60)
        return super().score(prepared)


class GatedModel(FakeModel):
    """Scores nothing until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def scorer(self, question: Question, adapter: Path | None) -> Scorer:
        return cast("Scorer", Gated(question, self.gate))


class Slow(MemoryStore):
    """Returns its objects one after the other."""

    def __init__(self, last: threading.Event) -> None:
        super().__init__()
        self._last = last  # set after the last object
        self._n = 0
        self._turn = threading.Lock()

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        with self._turn:
            time.sleep(FETCH_SECONDS)
            self._n += 1
            if self._n == N_IMAGES:
                self._last.set()
            return super().fetch(uri, etag=etag, max_bytes=max_bytes)


def test_images_that_no_thread_is_free_for_share_a_lookup(tmp_path: Path) -> None:
    model = GatedModel()
    store = Slow(model.gate)
    lookups: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "content_sha256 IN" in statement and "verdicts" in statement:
            lookups.append(statement)

    with rig(tmp_path, model=model, store=store, fetch_threads=FETCH_THREADS) as worker:
        store.objects = worker.store.objects
        scan = worker.scan({f"mem://{number}": png(number) for number in range(N_IMAGES)}, batch_images=N_IMAGES)
        sa.event.listen(worker.engine, "before_cursor_execute", count)
        worker.pipeline.run(None)
        assert worker.progress(scan).n_verdicts == N_IMAGES
    assert 0 < len(lookups) <= MOST
