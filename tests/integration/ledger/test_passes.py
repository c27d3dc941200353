"""Scans of one pass: their images are read once, and everything else is as if each scan were alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans import batches, scans
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from scanfleet.storage.base import FetchedObject
from scanfleet.storage.memory import MemoryStore
from tests.rigs.many_questions import ManyModel, question_named
from tests.rigs.worker_rig import Rig, add_scan, png, rig

CHECKS = [question_named(name) for name in ("logo", "knife", "text")]
PICTURES = {f"mem://a/{number:02}.png": png(number) for number in range(20)}


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        self.fetched.append(uri)
        return super().fetch(uri, etag=etag, max_bytes=max_bytes)


@contextmanager
def fleet(folder: Path, url: str | None = None) -> Iterator[tuple[Rig, ManyModel, CountingStore]]:
    model, store = ManyModel(), CountingStore()
    with rig(folder, model=model, store=store, **({} if url is None else {"database_url": url})) as worker:
        worker.store = store
        yield worker, model, store


def scan_all(
    worker: Rig, checks: Sequence[Check] = CHECKS, *, pass_id: str | None = "p", contents: dict[str, bytes] = PICTURES
) -> list[str]:
    """Return the ids of one scan for each check."""
    images = worker.put(contents)
    return [add_scan(worker.engine, images, check=check, pass_id=pass_id) for check in checks]


def verdicts_of(worker: Rig, scan_id: str) -> list[tuple[object, ...]]:
    uris = {row.id: row.uri for row in worker.rows(Image, Image.scan_id == scan_id)}
    rows = worker.rows(Verdict, Verdict.scan_id == scan_id)
    kept = [(uris[row.image_id], row.label, row.decision, row.margin, row.mass, row.content_sha256) for row in rows]
    return sorted(kept)


def test_each_image_is_read_once_and_the_verdicts_are_those_of_separate_scans(
    tmp_path: Path, database_url: str
) -> None:
    with fleet(tmp_path / "alone") as (worker, model, store):
        alone = [verdicts_of(worker, scan) for scan in _drained(worker, pass_id=None)]
        sizes = worker.rows(Image)
        assert (len(store.fetched), model.n_prepared, model.n_read) == (60, 60, 60)
    with fleet(tmp_path / "together", database_url) as (worker, model, store):
        scan_ids = _drained(worker, pass_id="p")
        assert [verdicts_of(worker, scan) for scan in scan_ids] == alone
        assert sorted(store.fetched) == sorted(PICTURES)
        assert (model.n_prepared, model.n_read) == (20, 20)
        assert {asked for asked, _ in model.forwards} == {("logo", "knife", "text")}
        rows = worker.rows(Image)
        assert [(row.width, row.height) for row in rows] == [(row.width, row.height) for row in sizes]
        assert {row.state for row in worker.rows(Scan)} == {"done"}
        scorers = {row.scan_id: row.scorer_id for row in worker.rows(Verdict)}
        assert len(set(scorers.values())) == 3


def _drained(worker: Rig, *, pass_id: str | None) -> list[str]:
    found = scan_all(worker, pass_id=pass_id)
    worker.drain()
    return found


def test_what_another_worker_reads_is_left_to_it(tmp_path: Path, database_url: str) -> None:
    with fleet(tmp_path, database_url) as (worker, _, __):
        first, second, _ = scan_all(worker)

        def claim(notified: int | None = None) -> batches.Claim | None:
            with transaction(worker.engine) as connection:
                return batches.claim(connection, model="fake", worker="w", lease_seconds=60, notified=notified)

        held = claim()
        assert held is not None
        assert held.scan_id == first
        twin = min(row.id for row in worker.rows(Batch, Batch.scan_id == second))
        other = claim(twin)
        assert other is not None
        assert (other.scan_id, other.batch_id) == (first, held.batch_id + 1)
        last = claim()
        assert last is not None
        with reading(worker.engine) as connection:
            assert not batches.has_ready(connection, "fake")
        assert claim() is None
        with transaction(worker.engine) as connection:
            batches.give_back(connection, held, values={})
        again = claim(twin)
        assert again is not None
        assert again.batch_id == twin  # whichever scan comes first reads for the others
        assert claim() is None
        with transaction(worker.engine) as connection:
            scans.pause(connection, second)
        with reading(worker.engine) as connection:
            assert not batches.has_ready(connection, "fake")


def test_scans_of_different_images_share_nothing(tmp_path: Path, database_url: str) -> None:
    with fleet(tmp_path, database_url) as (worker, model, store):
        add_scan(worker.engine, worker.put(PICTURES), check=CHECKS[0], pass_id="p")
        others = {f"mem://b/{number}.png": png(100 + number) for number in range(5)}
        add_scan(worker.engine, worker.put(others), check=CHECKS[1], pass_id="p")
        worker.drain()
        assert (len(store.fetched), model.n_read) == (25, 25)
        assert {asked for asked, _ in model.forwards} == {("logo",), ("knife",)}


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_a_scan_that_is_stopped_is_not_read_for(tmp_path: Path, database_url: str, state: str) -> None:
    with fleet(tmp_path, database_url) as (worker, model, _):
        _, second, _ = scan_all(worker)
        with transaction(worker.engine) as connection:
            (scans.pause if state == "paused" else scans.cancel)(connection, second)
        worker.drain()
        assert {asked for asked, _ in model.forwards} == {("logo", "text")}
        assert worker.progress(second).n_verdicts == 0
        with transaction(worker.engine) as connection:
            connection.execute(sa.update(Scan).where(Scan.id == second, Scan.state == "paused").values(state="running"))
        worker.drain()
        assert worker.progress(second).n_verdicts == (20 if state == "paused" else 0)
