"""Scores a stream of images in its order, with the stages of a worker and without a database.

`worker.batch.attempt` does the work, as in a fleet. Memory does not grow with the stream: only a limited number of
chunks is read ahead.
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
from scanfleet.worker.batch.attempt import BatchRun
from scanfleet.worker.batch.context import WorkerContext
from scanfleet.worker.batch.results import BatchResults
from scanfleet.worker.batch.timing import Stopwatch
from scanfleet.worker.device.executor import Device
from scanfleet.worker.scoring.crop_selection import Allowance
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import Model

CHUNK_IMAGES = 16  # few, because a chunk is reported when its last image is scored
MOST_CHUNKS = 64

Chunk = list[ClaimedImage]
Scored = tuple[Chunk, Outcome]


def chunks_in_flight(settings: Settings) -> int:
    """Return the number of chunks that hold as many images as a worker's batches."""
    return max(1, min(MOST_CHUNKS, settings.batches_in_flight * settings.batch_images // CHUNK_IMAGES))


@contextmanager
def stages(settings: Settings, model: Model, *, token_budget: int) -> Iterator[WorkerContext]:
    """Run device threads, stage threads and decoder processes inside the context."""
    device = Device(token_budget=token_budget, streams=model.streams, one_by_one=model.one_by_one)
    threads = ThreadPoolExecutor(settings.fetch_threads, thread_name_prefix="stage")
    decoders = Decoders(settings)
    device.start()
    try:
        yield WorkerContext(
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
    """Share one client for all buckets, but open a folder for each image: a stream may name very many folders."""
    buckets = OpenStores(settings)

    def find(uri: str, root: str | None) -> ObjectStore:
        return buckets(uri, root) if root is None else open_store(uri, settings, root=root)

    return find


def score_stream(images: Iterator[ClaimedImage], resolved: Resolved, context: WorkerContext) -> Iterator[Scored]:
    """Yield the outcome of each chunk, in order. An image in neither of its lists met a transient error."""
    ahead = chunks_in_flight(context.settings)
    waiting: Queue[Future[Scored] | Exception | None] = Queue(ahead)
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="chunk")

    def read() -> None:
        try:
            for chunk in chunks_of(images):
                waiting.put(pool.submit(_score, chunk, resolved, context))
            waiting.put(None)
        except Exception as error:  # noqa: BLE001 - raised where the results are taken
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


def _score(chunk: Chunk, resolved: Resolved, context: WorkerContext) -> Scored:
    results = BatchResults(resolved)
    watch = Stopwatch(allowance=Allowance(None))  # no scan whose share it is: each image gets the crop pass that is due
    run = BatchRun(
        images=chunk,
        attempt=1,
        resolved=resolved,
        context=context,
        results=results,
        watch=watch,
        scan_id="",
    )
    run.run()
    results.confirm_missing()  # nothing is kept, so that asking the store again is up to the person
    # A missing folder is a store that is away: perhaps it is not mounted.
    refused = [image for image, failure in results.refusals if failure.reason != "gone"]
    results.accept_refusals({image.id for image in refused if results.n_fetched or image.root is not None})
    return chunk, results.outcome(watch)
