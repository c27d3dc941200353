"""Images in, answers out, in their order and without a ledger: the stages of a worker around a stream.

The work is done by `worker.batch.attempt`, as for a fleet. Memory does not grow with the stream: it is read as far as
there are chunks in flight.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import Queue

from scanfleet.config.settings import Settings
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.decoding.pool import Decoders
from scanfleet.storage.base import ObjectStore
from scanfleet.storage.open import OpenStores, StoreFinder, open_store
from worker.batch.attempt import BatchRun
from worker.batch.results import BatchResults
from worker.batch.stages import Stages
from worker.batch.timing import Stopwatch
from worker.device.executor import Device
from worker.scoring.crop_gate import Allowance
from worker.scoring.factory import Resolved
from worker.scoring.model import Model

CHUNK_IMAGES = 16  # few, because a chunk is told when its last image is scored
MOST_CHUNKS = 64

Chunk = list[ClaimedImage]
Scored = tuple[Chunk, Outcome]


def chunks_in_flight(settings: Settings) -> int:
    """As many images as a worker holds in its batches."""
    return max(1, min(MOST_CHUNKS, settings.batches_in_flight * settings.batch_images // CHUNK_IMAGES))


@contextmanager
def stages(settings: Settings, model: Model, *, token_budget: int) -> Iterator[Stages]:
    """Device threads, stage threads and decoder processes."""
    device = Device(token_budget=token_budget, streams=model.streams, one_by_one=model.one_by_one)
    threads = ThreadPoolExecutor(settings.fetch_threads, thread_name_prefix="stage")
    decoders = Decoders(settings)
    device.start()
    try:
        yield Stages(
            threads=threads,
            decoders=decoders,
            device=device,
            stores=_stores(settings),
            answers_by_content=lambda _: {},
            settings=settings,
        )
    finally:
        device.stop(wait_seconds=1.0)
        threads.shutdown(wait=False, cancel_futures=True)
        decoders.close()


def _stores(settings: Settings) -> StoreFinder:
    """One client for all buckets; a folder is opened for each image, lest a long list of folders be kept."""
    buckets = OpenStores(settings)

    def find(uri: str, root: str | None) -> ObjectStore:
        return buckets(uri, root) if uri.startswith("s3://") else open_store(uri, settings, root=root)

    return find


def score_stream(images: Iterator[ClaimedImage], resolved: Resolved, parts: Stages) -> Iterator[Scored]:
    """The outcome of each chunk, in order. Images in neither of its lists wait for the world to heal."""
    ahead = chunks_in_flight(parts.settings)
    waiting: Queue[Future[Scored] | Exception | None] = Queue(ahead)
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="chunk")

    def read() -> None:
        try:
            for chunk in chunks_of(images):
                waiting.put(pool.submit(_score, chunk, resolved, parts))
            waiting.put(None)
        except Exception as error:  # noqa: BLE001 - raised where the answers are taken
            waiting.put(error)

    threading.Thread(target=read, name="reader", daemon=True).start()
    while (found := waiting.get()) is not None:
        if isinstance(found, Exception):
            raise found
        yield found.result()
    pool.shutdown()


def chunks_of(images: Iterable[ClaimedImage]) -> Iterator[Chunk]:
    rest = iter(images)
    while chunk := list(islice(rest, CHUNK_IMAGES)):
        yield chunk


def _score(chunk: Chunk, resolved: Resolved, parts: Stages) -> Scored:
    results, watch = BatchResults(resolved), Stopwatch()
    run = BatchRun(
        images=chunk,
        attempt=1,
        resolved=resolved,
        stages=parts,
        results=results,
        watch=watch,
        scan_id="",
        allowance=Allowance(None),  # no scan, no share of it: each image gets the look that is due
    )
    run.run()
    return chunk, results.outcome(watch)
