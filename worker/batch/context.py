"""The shared parts that batches need: those of the worker, for its whole life, and those of one attempt at a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import sqlalchemy as sa

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.results import answers
from scanfleet.db.results.answers import Answer
from scanfleet.db.scans import crash_isolation
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import ImageError
from scanfleet.storage.open import StoreFinder
from scanfleet.worker.batch.events import Event
from scanfleet.worker.batch.timing import Stopwatch
from scanfleet.worker.device.executor import Device
from scanfleet.worker.runtime.activity import ActivityTracker, BatchActivity
from scanfleet.worker.runtime.file_buffer import FilesInHand
from scanfleet.worker.scoring.factory import Resolved

RETRY_SECONDS = 30.0  # after the deadline of a fetch, for the store's client to give up
WHOLE_PICTURES = 4  # decoded with all their pixels for crop passes at once


@dataclass(frozen=True, kw_only=True)
class ScanBytes:
    """Bytes that a scorer meets in a scan."""

    scan_id: str
    scorer_id: int
    hashes: Collection[str]  # SHA-256
    explained: bool = False  # flags without an explanation are no answers


AnswersByContent = Callable[[ScanBytes], Mapping[str, Answer | ImageError]]


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """The stages that all batches of a worker share, and where bytes and earlier answers come from."""

    threads: Executor
    decoders: Decoders
    device: Device
    stores: StoreFinder
    answers_by_content: AnswersByContent  # earlier answers, and bytes that killed workers; raises DatabaseUnavailable
    settings: Settings
    tracker: ActivityTracker = field(default_factory=ActivityTracker)
    files: FilesInHand = field(default_factory=FilesInHand)
    pictures: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(WHOLE_PICTURES))


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchContext:
    """The parts of one attempt at a batch, for its coordinator and its stage threads. It owns the batch's work items.

    send: puts an event into the coordinator's inbox, from any thread. closed: the coordinator takes no more events.
    """

    worker: WorkerContext
    scan_id: str
    resolved: Resolved
    watch: Stopwatch
    activity: BatchActivity
    closed: threading.Event
    send: Callable[[Event], None]

    def expect_fetch(self) -> Callable[[], None]:
        """Announce a fetch to the hang detector. Call the returned function when it has ended."""
        return self.activity.expect(seconds=self.worker.settings.fetch_deadline_seconds + RETRY_SECONDS)


def look_up_content(engine: sa.Engine) -> AnswersByContent:
    """Return the lookup of bytes in the ledger: earlier answers, and bytes that killed workers."""

    def look_up(query: ScanBytes) -> Mapping[str, Answer | ImageError]:
        if not query.hashes:
            return {}
        with reading(engine) as connection:
            known = answers.answers_by_content(connection, query.scorer_id, query.hashes, explained=query.explained)
            lethal = crash_isolation.lethal_content(connection, query.scan_id, query.hashes)
        return {**lethal, **known}

    return look_up
