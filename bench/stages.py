"""A worker's stages around files in memory: decoder processes, stage threads, device threads. No store, no ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from bench.report import seconds
from scanfleet.config.settings import Settings
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.decoding.pool import Decoders
from scanfleet.stats.stage_times import THREAD_STAGES
from scanfleet.storage.base import FetchedObject
from scanfleet.worker.batch.context import WorkerContext
from scanfleet.worker.commands.stream import score_stream
from scanfleet.worker.device.executor import Device
from scanfleet.worker.device.probe import budget_for
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import Model

STAGES = (*THREAD_STAGES, "wait", "device")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """An object store in memory: returns a file without delay."""

    files: Sequence[bytes]

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        return FetchedObject(self.files[int(uri)], None)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run over all files.

    Attributes:
        verdicts: in the order of the files.
        stage_seconds: summed over threads.
        wall_seconds: of the run.
        streams: forwards that may run at once.
    """

    verdicts: list[NewVerdict]
    stage_seconds: dict[str, float]
    wall_seconds: float
    streams: int

    @property
    def device_idle_share(self) -> float:
        return max(0.0, 1 - self.stage_seconds["device"] / self.wall_seconds / self.streams)


class Bench:
    """Scores files from bytes to verdicts."""

    def __init__(self, stages: WorkerContext, resolved: Resolved, memory: dict[str, Memory], *, streams: int) -> None:
        self._streams = streams
        self._stages = stages
        self._resolved = resolved
        self._memory = memory

    def score(self, files: Sequence[bytes]) -> Run:
        self._memory["now"] = Memory(files=files)
        verdicts: list[NewVerdict] = []
        stage_seconds: dict[str, float] = {}

        def work() -> None:
            images = (_image(number) for number in range(len(files)))
            for _, outcome in score_stream(images, self._resolved, self._stages):
                verdicts.extend(outcome.verdicts)
                for stage in STAGES:
                    stage_seconds[stage] = stage_seconds.get(stage, 0.0) + outcome.seconds[stage]

        wall = seconds(work)
        if len(verdicts) != len(files):
            raise AssertionError(f"{len(files) - len(verdicts)} of {len(files)} images have no verdict")
        verdicts.sort(key=lambda verdict: verdict.image_id)
        return Run(verdicts=verdicts, stage_seconds=stage_seconds, wall_seconds=wall, streams=self._streams)


def _image(number: int) -> ClaimedImage:
    return ClaimedImage(id=number, uri=str(number), root=None, etag=None, identity="")


@contextmanager
def bench(settings: Settings, model: Model, resolved: Resolved) -> Iterator[Bench]:
    """Yield a worker's stages with these settings, running."""
    memory: dict[str, Memory] = {}
    device = Device(token_budget=budget_for(settings, model), streams=model.streams, one_by_one=model.one_by_one)
    threads = ThreadPoolExecutor(settings.fetch_threads)
    decoders = Decoders(settings)
    device.start()
    stages = WorkerContext(
        threads=threads,
        decoders=decoders,
        device=device,
        stores=cast("Any", lambda uri, root: memory["now"]),  # noqa: ARG005 - there is one store
        answers_by_content=lambda _: {},
        settings=settings,
    )
    try:
        yield Bench(stages, resolved, memory, streams=model.streams)
    finally:
        device.stop()
        threads.shutdown()
        decoders.close()
