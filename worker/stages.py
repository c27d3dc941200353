"""What all batches of a worker share: threads, decoders, the device, and where bytes and earlier answers come from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

from scanfleet.errors import ImageError
from scanfleet.settings import Settings
from scanfleet.store.verdicts import Known
from worker.decoders import Decoders
from worker.device import Device
from worker.in_hand import FilesInHand
from worker.stores import StoreFinder
from worker.vitals import Vitals


@dataclass(frozen=True, kw_only=True)
class ScanBytes:
    """Bytes that a scorer meets in a scan."""

    scan_id: str
    scorer_id: int
    hashes: Collection[str]  # SHA-256


WHOLE_PICTURES = 4  # decoded with all their pixels for a second look, at once

KnownByContent = Callable[[ScanBytes], Mapping[str, Known | ImageError]]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages that batches go through."""

    threads: Executor
    decoders: Decoders
    device: Device
    stores: StoreFinder
    known_by_content: KnownByContent  # earlier verdicts, and what killed workers; raises DatabaseUnavailable
    settings: Settings
    vitals: Vitals = field(default_factory=Vitals)
    in_hand: FilesInHand = field(default_factory=FilesInHand)
    pictures: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(WHOLE_PICTURES))
