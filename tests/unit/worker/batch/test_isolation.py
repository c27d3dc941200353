"""A batch whose worker died runs alone and image by image, and the ledger marks the image under way."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans import crash_isolation, scans
from scanfleet.db.scans.batches import claim
from scanfleet.db.scans.new_images import add_images
from scanfleet.db.scans.retries import retry_failures
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from tests.rigs.worker_rig import QUEUE, Rig, png, rig
from tests.unit.worker.batch.test_pipeline import HookedModel, pictures


def crash(worker: Rig) -> None:
    """A worker claims the first batch and dies."""
    with transaction(worker.engine) as connection:
        assert claim(connection, model="fake", worker="dead", lease_seconds=-1) is not None
        assert crash_isolation.expire_leases(connection).n == 1


def hooked(box: list[Rig], hook: Callable[[Rig, Sequence[Any]], None]) -> HookedModel:
    return HookedModel(scoring=lambda prepared: hook(box[0], prepared))


def test_each_image_of_a_suspect_is_marked_before_it_is_scored_and_written_after_it(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []

    def record(worker: Rig, prepared: Sequence[Any]) -> None:
        batch = worker.rows(Batch)[0]
        seen.append((batch.in_hand, len(prepared), len(worker.rows(Verdict))))

    box: list[Rig] = []
    with rig(tmp_path, model=hooked(box, record)) as worker:
        box.append(worker)
        scan = worker.scan(pictures(4))
        ids = [row.id for row in worker.rows(Image)]
        crash(worker)
        worker.drain()
        assert seen == [(ids[at], 1, at) for at in range(4)]
        batch = worker.rows(Batch)[0]
        assert (batch.state, batch.in_hand, batch.n_verdicts) == ("done", None, 4)
        assert worker.progress(scan).n_verdicts == 4
        assert worker.rows(Scan)[0].state == "done"


def test_a_suspect_has_the_worker_to_itself(tmp_path: Path) -> None:
    lock, under_way, together = threading.Lock(), [0], []

    def count(worker: Rig, prepared: Sequence[Any]) -> None:
        with reading(worker.engine) as connection:
            alone = connection.execute(sa.select(Batch.in_hand).where(Batch.in_hand.is_not(None))).first() is not None
        with lock:
            under_way[0] += 1
        if alone:
            together.append((len(prepared), worker.pipeline._isolation._inside))
        with lock:
            under_way[0] -= 1

    box: list[Rig] = []
    with rig(tmp_path, model=hooked(box, count)) as worker:
        box.append(worker)
        scan = worker.scan(pictures(60), batch_images=6)
        crash(worker)
        threads = [threading.Thread(target=worker.drain) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert worker.progress(scan).n_verdicts == 60
        assert together == [(1, 0)] * 6


def test_verdicts_of_a_suspect_survive_the_next_crash(tmp_path: Path) -> None:
    third = threading.Event()
    gate = threading.Event()

    def hold(worker: Rig, _: Sequence[Any]) -> None:
        if len(worker.rows(Verdict)) == 2:
            third.set()
            assert gate.wait(30)

    box: list[Rig] = []
    with rig(tmp_path, model=hooked(box, hold), lease_seconds=30) as worker:
        box.append(worker)
        worker.scan(pictures(4))
        ids = [row.id for row in worker.rows(Image)]
        crash(worker)
        running = threading.Thread(target=worker.pipeline.run, args=(None,))
        running.start()
        assert third.wait(30)
        with transaction(worker.engine) as connection:  # as if this worker had died here
            connection.execute(sa.update(Batch).values(lease_until=sa.func.datetime("now", "-1 hour")))
            crash_isolation.expire_leases(connection)
        gate.set()
        running.join(30)
        assert [row.crashes for row in worker.rows(Image)] == [0, 0, 1, 0]
        assert len(worker.rows(Verdict)) == 2  # the late result of the third was refused
        worker.drain()
        assert [row.image_id for row in worker.rows(Verdict)] == [ids[0], ids[1], ids[3], ids[2]]


def test_an_image_that_kills_three_workers_is_quarantined_and_its_neighbours_are_scored(tmp_path: Path) -> None:
    poison: list[int] = []

    def die(worker: Rig, _: Sequence[Any]) -> None:
        batch = worker.rows(Batch)[0]
        if batch.in_hand in poison:
            with transaction(worker.engine) as connection:
                connection.execute(sa.update(Batch).values(lease_until=sa.func.datetime("now", "-1 hour")))
                crash_isolation.expire_leases(connection)

    box: list[Rig] = []
    with rig(tmp_path, model=hooked(box, die)) as worker:
        box.append(worker)
        scan = worker.scan(pictures(5))
        poison.append(worker.rows(Image)[1].id)
        crash(worker)
        for _ in range(4):
            worker.drain()
            worker.forget_backoff()
        assert worker.failures() == {"mem://a/1.png": ("process", "kills_the_worker")}
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (4, 1, 0)
        assert [row.crashes for row in worker.rows(Image)] == [0, 3, 0, 0, 0]
        assert worker.rows(Batch)[0].state == "done"


def test_the_same_bytes_under_another_name_are_quarantined_without_another_death(tmp_path: Path) -> None:
    deaths: list[int] = []

    def die(worker: Rig, _: Sequence[Any]) -> None:
        batch = worker.rows(Batch)[0]
        if batch.in_hand is not None:
            deaths.append(batch.in_hand)
            with transaction(worker.engine) as connection:
                connection.execute(sa.update(Batch).values(lease_until=sa.func.datetime("now", "-1 hour")))
                crash_isolation.expire_leases(connection)

    box: list[Rig] = []
    with rig(tmp_path, model=hooked(box, die)) as worker:
        box.append(worker)
        scan = worker.scan({"mem://a/0.png": png(0)})
        crash(worker)
        for _ in range(4):
            worker.drain()
            worker.forget_backoff()
        assert len(deaths) == 3
        with transaction(worker.engine) as connection:
            scans.reopen(connection, scan)
            duplicate, other = worker.put({"mem://b/duplicate.png": png(0), "mem://b/other.png": png(1)})
            add_images(connection, scan_id=scan, queue=QUEUE, images=[duplicate, other], batch_images=2)
        worker.drain()
        killer = ("process", "kills_the_worker")
        assert worker.failures() == {"mem://a/0.png": killer, "mem://b/duplicate.png": killer}
        assert worker.progress(scan).n_verdicts == 1
        with transaction(worker.engine) as connection:  # a person fixed the model: every image is tried again
            assert retry_failures(connection, scan) == 2
        assert [row.crashes for row in worker.rows(Image, Image.state == "pending")] == [0, 0]


def test_an_image_that_is_gone_fails_alone_in_a_suspect(tmp_path: Path) -> None:
    with rig(tmp_path, fetch_threads=2) as worker:
        images = worker.put(pictures(5))
        lost = worker.store.objects.pop("mem://a/1.png")
        scan = worker.scan_listed(images)
        crash(worker)
        worker.drain()
        assert worker.failures() == {"mem://a/1.png": ("fetch", "gone")}
        assert worker.progress(scan).n_verdicts == 4
        assert lost


def test_stopping_in_the_middle_of_a_suspect_counts_no_crash(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    def hold(_: Rig, __: Sequence[Any]) -> None:
        entered.set()
        assert gate.wait(30)

    box: list[Rig] = []
    with rig(tmp_path, model=hooked(box, hold), drain_seconds=0.2) as worker:
        box.append(worker)
        worker.scan(pictures(3))
        crash(worker)
        running = threading.Thread(target=worker.pipeline.run, args=(None,))
        running.start()
        assert entered.wait(30)
        worker.stop.request("test")
        running.join(30)
        gate.set()
        batch = worker.rows(Batch)[0]
        assert (batch.state, batch.in_hand, batch.suspect) == ("ready", None, True)
        assert [row.crashes for row in worker.rows(Image)] == [0, 0, 0]
