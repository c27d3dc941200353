"""How many bytes of files a worker holds before they are decoded, and that none is counted for ever."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from scanfleet.checks.frames import FrameSettings
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import StoreUnavailable
from scanfleet.images import Decoded, Enough
from scanfleet.images.decoding import decode
from scanfleet.images.fit import Fit
from scanfleet.storage.base import FetchedObject
from scanfleet.storage.memory import MemoryStore
from scanfleet.worker.runtime.file_buffer import FilesInHand, KeptFiles
from tests.rigs.worker_rig import Outage, Rig, png, rig

FETCH_THREADS = 8
FILE_BYTES = len(png(0))


def test_what_is_on_its_way_counts_as_an_average_file() -> None:
    files = FilesInHand(many=100)
    for n_bytes in (10, 50):
        files.begin()
        files.take(n_bytes)
        files.drop(n_bytes)
    assert files.nothing
    for _ in range(3):
        files.begin()
    assert not files.many  # 3 x 30
    files.begin()
    assert files.many
    files.give_up(2)
    assert not files.many
    files.take(70)
    assert files.many  # and one on its way
    files.drop(70)
    files.give_up()
    assert files.nothing


class Counting(MemoryStore):
    """`most`: files that were given and not decoded at any one time."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.n = self.most = 0

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        with self.lock:
            self.n += 1
            self.most = max(self.most, self.n)
        return super().fetch(uri, etag=etag, max_bytes=max_bytes)


class OneAtATime:
    """Decodes in this process, slowly."""

    def __init__(self, store: Counting) -> None:
        self._store = store
        self._turn = threading.Lock()

    def decode_all(
        self, files: Sequence[bytes], *, enough: Enough | None = None, frames: FrameSettings, fit: Fit | None = None
    ) -> list[list[Decoded]]:
        return [[self._decode(data)] for data in files]

    def _decode(self, data: bytes) -> Decoded:
        with self._turn:
            time.sleep(0.002)
            with self._store.lock:
                self._store.n -= 1
            return decode(data, max_pixels=1_000_000)


@contextmanager
def worker_with(folder: Path, store: Any = None, **parts: Any) -> Iterator[tuple[Rig, FilesInHand]]:
    with rig(folder, store=store, fetch_threads=FETCH_THREADS) as worker:
        in_hand = parts.setdefault("files", FilesInHand())
        worker.pipeline._context = replace(worker.pipeline._context, **parts)
        yield worker, in_hand


def contents(n: int) -> dict[str, bytes]:
    return {f"mem://{number}": png(number) for number in range(n)}


@pytest.mark.parametrize(("n_files", "most"), [(1, FETCH_THREADS), (3, FETCH_THREADS + 1)])
def test_no_fetch_begins_while_many_bytes_wait_for_decoding(tmp_path: Path, n_files: int, most: int) -> None:
    """Before the first file nothing is known of their sizes: as many as there are threads may come."""
    store = Counting()
    slow = cast("Decoders", OneAtATime(store))
    with worker_with(tmp_path, store, decoders=slow, files=FilesInHand(many=n_files * FILE_BYTES)) as (worker, held):
        store.objects = worker.store.objects
        scan = worker.scan(contents(80), batch_images=80)
        worker.pipeline.run(None)
        assert worker.progress(scan).n_verdicts == 80
        assert held.nothing
    assert store.most <= most


class Moody(MemoryStore):
    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        if uri.endswith("7"):
            raise StoreUnavailable("a mood")
        return super().fetch(uri, etag=etag, max_bytes=max_bytes)


def test_however_an_image_ends_its_file_is_not_held_any_more(tmp_path: Path) -> None:
    store = Moody()
    with worker_with(tmp_path, store) as (worker, held):
        store.objects = worker.store.objects
        odd = {"mem://twin": png(3), "mem://damaged": png(9)[:-40], "mem://text": b"no picture"}
        worker.scan(contents(10) | odd, batch_images=20)
        worker.pipeline.run(None)
        assert held.nothing
        worker.scan({"mem://known": png(3)})  # bytes that were scored before
        worker.drain()
        assert held.nothing


def test_a_batch_that_ends_early_holds_nothing(tmp_path: Path) -> None:
    with worker_with(tmp_path) as (worker, held):
        worker.scan(contents(40), batch_images=40)
        worker.cut_database(Outage(marker="content_sha256 IN"))
        worker.pipeline.run(None)
        worker.pipeline._context.threads.shutdown(wait=True)  # what it had begun
        assert held.nothing


def test_files_are_kept_while_there_is_room_and_until_nobody_needs_them() -> None:
    files = FilesInHand(many=10, most_kept=100)
    one, other = KeptFiles(files), KeptFiles(files)
    one.keep("a", b"x" * 60)
    one.keep("a", b"x" * 60)  # counts once
    other.keep("b", b"y" * 41)
    assert one.get("a") == b"x" * 60
    assert other.get("b") is None
    assert not files.many  # they hold up no fetch
    one.drop("a")
    one.drop("a")
    assert one.get("a") is None
    other.keep("b", b"y" * 41)
    assert other.get("b") is not None
    assert not files.nothing
    other.close()
    other.keep("c", b"z")
    assert other.get("c") is None
    assert files.nothing
