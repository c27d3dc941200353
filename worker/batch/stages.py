"""What all batches of a worker share: threads, decoders, the device, and where bytes and earlier answers come from.

What the stage threads of one batch need, whatever they do for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

from scanfleet.config.settings import Settings
from scanfleet.db.results.verdicts import Known
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import ImageError
from scanfleet.storage.open import StoreFinder
from worker.batch.events import Event
from worker.batch.timing import Stopwatch
from worker.decoding.file_buffer import FilesInHand
from worker.device.executor import Device
from worker.runtime.activity import ActivityTracker, BatchActivity
from worker.scoring.factory import Resolved


@dataclass(frozen=True, kw_only=True)
class ScanBytes:
    """Bytes that a scorer meets in a scan."""

    scan_id: str
    scorer_id: int
    hashes: Collection[str]  # SHA-256


WHOLE_PICTURES = 4  # decoded with all their pixels for a second look, at once

AnswersByContent = Callable[[ScanBytes], Mapping[str, Known | ImageError]]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages that batches go through."""

    threads: Executor
    decoders: Decoders
    device: Device
    stores: StoreFinder
    answers_by_content: AnswersByContent  # earlier verdicts, and what killed workers; raises DatabaseUnavailable
    settings: Settings
    tracker: ActivityTracker = field(default_factory=ActivityTracker)
    in_hand: FilesInHand = field(default_factory=FilesInHand)
    pictures: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(WHOLE_PICTURES))


RETRY_SECONDS = 30.0  # after the deadline of a fetch, for the store's client to give up


@dataclass(frozen=True, kw_only=True, eq=False)
class Around:
    """tell: from any thread, to its coordinator. over: it wants nothing more. owner: of its tickets at the device."""

    resolved: Resolved
    stages: Stages
    watch: Stopwatch
    activity: BatchActivity
    over: threading.Event
    owner: object
    tell: Callable[[Event], None]
