"""Objects that the store refuses or has lost: failures of their own if others are delivered, else a wait."""

import math
import threading
from pathlib import Path

import pytest

from scanfleet.checks.check import load_check
from scanfleet.db.tables import Image, Scan
from scanfleet.errors import StoreUnavailable
from scanfleet.messages import score_queue
from scanfleet.producer.scans.enqueue import enqueue
from scanfleet.producer.sources.filters import Filters
from scanfleet.producer.sources.listing import Listing
from scanfleet.producer.sources.open import open_source
from scanfleet.queue.app import make_app
from tests.helpers.patience import patient
from tests.rigs.forbidding_store import Forbidding
from tests.rigs.worker_rig import Rig, png, rig
from tests.unit.worker.batch.test_pipeline import HookedModel, pictures


def scan(worker: Rig, store: Forbidding, contents: dict[str, bytes], **how: int) -> str:
    worker.store = store
    return worker.scan(contents, **how)


def again(worker: Rig, times: int = 1) -> None:
    for _ in range(times):
        worker.forget_backoff()
        worker.drain()


@pytest.mark.parametrize("batch_images", [40, 1])
def test_one_refused_object_is_a_failure_at_the_second_attempt(tmp_path: Path, batch_images: int) -> None:
    store = Forbidding()
    store.refuses = lambda uri: uri.endswith("/1.png")
    with rig(tmp_path, store=store) as worker:
        scan_id = scan(worker, store, pictures(12), batch_images=batch_images)
        for _ in range(math.ceil(12 / batch_images)):  # batches that were not tried come first
            worker.pipeline.run(None)
        assert (worker.progress(scan_id).n_verdicts, worker.progress(scan_id).n_failures) == (11, 0)
        waits = worker.progress(scan_id).waiting_for
        assert waits is not None
        assert "AccessDenied" in waits
        again(worker)
        assert worker.failures() == {"mem://a/1.png": ("fetch", "denied")}
        assert worker.progress(scan_id).n_pending == 0


def test_a_store_that_refuses_everything_is_waited_for(tmp_path: Path) -> None:
    store = Forbidding()
    with rig(tmp_path, store=store) as worker:
        scan_id = scan(worker, store, pictures(30), batch_images=10)
        worker.pipeline.run(None)
        assert worker.progress(scan_id).n_verdicts == 10
        store.refuses = lambda _: True
        again(worker, 4)
        assert worker.failures() == {}
        store.refuses = lambda _: False
        again(worker, 4)
        assert worker.progress(scan_id).n_verdicts == 30


def test_many_refused_objects_do_not_put_a_store_on_hold_that_delivers_others(tmp_path: Path) -> None:
    store = Forbidding()
    store.refuses = lambda uri: not uri.endswith("/0.png")
    with rig(tmp_path, store=store) as worker:
        scan_id = scan(worker, store, pictures(12), batch_images=1)
        for _ in range(12):  # without a pause that `forget_backoff` would end
            worker.pipeline.run(None)
        (row,) = worker.rows(Scan)
        assert (row.trouble, row.not_before) == (0, None)
        again(worker)
        assert (worker.progress(scan_id).n_verdicts, worker.progress(scan_id).n_failures) == (1, 11)


def test_objects_that_are_no_pictures_show_as_well_that_the_store_delivers(tmp_path: Path) -> None:
    store = Forbidding()
    store.refuses = lambda uri: uri.endswith("/1.png")
    contents = dict.fromkeys(pictures(4), b"no picture")
    with rig(tmp_path, store=store) as worker:
        scan_id = scan(worker, store, contents, batch_images=4)
        worker.drain()
        again(worker)
        assert worker.failures()["mem://a/1.png"] == ("fetch", "denied")
        assert worker.progress(scan_id).n_pending == 0


def test_a_refusal_that_ends_meanwhile_is_no_failure(tmp_path: Path) -> None:
    """Others are delivered by the time they are tried; so are the refused ones when they are tried again."""
    store = Forbidding()
    n_refused = [0]

    def refuse(uri: str) -> bool:
        is_late = uri.rsplit("/", 1)[1] not in ("0.png", "1.png", "2.png", "3.png")
        n_refused[0] += is_late
        return is_late and n_refused[0] <= 8  # 4 in the first attempt, 4 in the second

    store.refuses = refuse
    with rig(tmp_path, store=store) as worker:
        scan_id = scan(worker, store, pictures(8), batch_images=4)
        worker.drain()
        again(worker)
        assert n_refused[0] > 8
        assert (worker.progress(scan_id).n_verdicts, worker.failures()) == (8, {})


def test_missing_objects_are_failures_at_once(tmp_path: Path) -> None:
    store = Forbidding()
    store.lost = lambda uri: uri.endswith(("/1.png", "/2.png"))
    with rig(tmp_path, store=store) as worker:
        scan_id = scan(worker, store, pictures(12), batch_images=40)
        worker.drain()
        assert {reason for _, reason in worker.failures().values()} == {"gone"}
        assert (worker.progress(scan_id).n_verdicts, worker.progress(scan_id).n_failures) == (10, 2)
        assert set(store.asked) == {"mem://a/1.png", "mem://a/2.png"}


def test_a_store_that_lost_everything_and_lists_it_is_waited_for(tmp_path: Path) -> None:
    store = Forbidding()
    store.lost, store.contradicts = (lambda _: True), True
    with rig(tmp_path, store=store) as worker:
        scan_id = scan(worker, store, pictures(40), batch_images=20)
        again(worker, 4)
        assert worker.failures() == {}
        waits = worker.progress(scan_id).waiting_for
        assert waits is not None
        assert "is listed" in waits
        assert len(store.asked) <= 8 * 8  # at most 8 of each batch and attempt
        store.lost = lambda _: False
        again(worker, 4)
        assert worker.progress(scan_id).n_verdicts == 40


def test_one_object_that_is_listed_and_never_delivered_ends_as_a_failure(tmp_path: Path) -> None:
    store = Forbidding()
    store.lost, store.contradicts = (lambda uri: uri.endswith("/1.png")), True
    with rig(tmp_path, store=store) as worker:
        scan_id = scan(worker, store, pictures(12), batch_images=40)
        worker.drain()
        assert worker.failures() == {}
        again(worker)
        assert worker.failures() == {"mem://a/1.png": ("fetch", "gone")}
        assert worker.progress(scan_id).n_pending == 0


def test_a_store_that_does_not_answer_about_missing_objects_holds_up_no_stop(tmp_path: Path) -> None:
    asked, answer = threading.Event(), threading.Event()

    class Silent(Forbidding):
        def confirm_missing(self, uri: str, *, etag: str | None, root_id: str | None) -> None:
            asked.set()
            assert answer.wait(patient(60))

    store = Silent()
    store.lost = lambda uri: uri.endswith("/1.png")
    with rig(tmp_path, store=store, drain_seconds=600) as worker:
        scan_id = scan(worker, store, pictures(12), batch_images=40)
        running = threading.Thread(target=worker.pipeline.run, args=(None,))
        running.start()
        try:
            assert asked.wait(patient(30))
            worker.stop.request("first")
            worker.stop.request("second")
            running.join(patient(30))
            assert not running.is_alive()
        finally:
            answer.set()
        assert (worker.progress(scan_id).n_verdicts, worker.failures()) == (11, {})


def test_an_object_without_a_listed_version_is_pinned_when_it_is_read(tmp_path: Path) -> None:
    fails = [True]

    def fail(_: object) -> None:
        if fails[0]:
            raise StoreUnavailable("the device is busy")

    with rig(tmp_path, model=HookedModel(scoring=fail)) as worker:
        listed = [image.__class__(uri=image.uri) for image in worker.put(pictures(3))]
        scan_id = worker.scan_listed(listed)
        worker.drain()
        assert all(row.seen_etag is not None and row.etag is None for row in worker.rows(Image))
        assert {row.uri: row.size for row in worker.rows(Image)} == {
            name: len(data) for name, data in pictures(3).items()
        }
        worker.store.objects["mem://a/1.png"] = png(99)
        fails[0] = False
        again(worker)
        assert worker.failures() == {"mem://a/1.png": ("fetch", "changed")}
        assert worker.progress(scan_id).n_verdicts == 2


def test_an_empty_mount_point_is_no_archive_whose_files_are_gone(tmp_path: Path) -> None:
    archive, away = tmp_path / "archive", tmp_path / "away"
    archive.mkdir()
    for name, content in pictures(12).items():
        (archive / name.rsplit("/", 1)[1]).write_bytes(content)
    with rig(tmp_path / "data", real_stores=True) as worker:
        scan_id = enqueued(worker, archive)
        archive.rename(away)
        archive.mkdir()
        (archive / "NOT_MOUNTED").touch()
        again(worker, 3)
        assert worker.failures() == {}
        waits = worker.progress(scan_id).waiting_for
        assert waits is not None
        assert "mounted" in waits
        (archive / "NOT_MOUNTED").unlink()
        archive.rmdir()
        away.rename(archive)
        (archive / "3.png").unlink()
        again(worker, 3)
        assert worker.failures() == {str(archive / "3.png"): ("fetch", "gone")}
        assert worker.progress(scan_id).n_verdicts == 11


def test_files_that_were_deleted_are_gone(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for name, content in pictures(4).items():
        (archive / name.rsplit("/", 1)[1]).write_bytes(content)
    with rig(tmp_path / "data", real_stores=True) as worker:
        scan_id = enqueued(worker, archive)
        for path in archive.iterdir():
            path.unlink()
        worker.drain()
        assert {reason for _, reason in worker.failures().values()} == {"gone"}
        assert worker.progress(scan_id).n_failures == 4


def test_a_line_that_names_a_missing_folder_ends_as_a_failure(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    names = [archive / f"{number}.png" for number in range(4)]
    for path, content in zip(names, pictures(4).values(), strict=True):
        path.write_bytes(content)
    missing = tmp_path / "missing" / "x.png"
    (tmp_path / "lines.txt").write_text("\n".join(map(str, [missing, *names])), encoding="utf-8")
    with rig(tmp_path / "data", real_stores=True, batch_images=2) as worker:
        scan_id = enqueued(worker, tmp_path / "lines.txt")
        again(worker, 4)
        assert worker.failures() == {str(missing): ("fetch", "gone")}
        assert worker.progress(scan_id).n_verdicts == 4


def enqueued(worker: Rig, source: Path) -> str:
    """Enqueue a source as `scanfleet scan` does."""
    listing = Listing([open_source(str(source), worker.settings)], Filters())
    with make_app(worker.settings, (score_queue("fake"),)) as app:
        pages = enqueue(worker.engine, app, worker.settings, listing=listing, checks=[load_check("overlay")])
        return list(pages)[-1].scan.id
