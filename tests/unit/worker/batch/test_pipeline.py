"""The life of a batch in a worker, on SQLite, with the fake model: the guarantees that hold after any error."""

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from PIL import Image as PillowImage

from scanfleet.checks.check import load_check
from scanfleet.db.engine import transaction
from scanfleet.db.scans import crash_isolation, notifications, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Failure, Image, Scan, Verdict
from scanfleet.errors import DeviceUnavailable, StoreUnavailable
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.fake import FakePrepared, FakeScorer
from scanfleet.models.types import ModelIdentity, Question, Reading, Scorer
from scanfleet.stats.stage_times import NAMES
from scanfleet.storage.base import FetchedObject
from scanfleet.storage.memory import MemoryStore
from tests.rigs.worker_rig import Outage, Rig, plain, png, rig


class HookedScorer(FakeScorer):
    def __init__(self, question: Question, *, preparing: Callable[..., None], scoring: Callable[..., None]) -> None:
        super().__init__(question=question)
        self._preparing = preparing
        self._scoring = scoring

    def prepare(self, image: PillowImage.Image) -> FakePrepared:
        self._preparing(image)
        return super().prepare(image)

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        self._scoring(prepared)
        return super().score(prepared)


class HookedModel:
    """The fake model with hooks before preparing and scoring, and a count of scored images."""

    device = "none"
    streams = 1
    one_by_one = False
    order = "instruction-first"
    rotates = False
    identity = ModelIdentity(base_model="fake", revision="1", precision="fp32", adapter_sha256=None)

    def __init__(
        self, *, preparing: Callable[..., None] = lambda _: None, scoring: Callable[..., None] = lambda _: None
    ) -> None:
        self._preparing = preparing
        self._scoring = scoring
        self.scorers: list[HookedScorer] = []

    def scorer(self, question: Question, adapter: Path | None) -> Scorer:
        self.scorers.append(HookedScorer(question, preparing=self._preparing, scoring=self._scoring))
        return cast("Scorer", self.scorers[-1])

    @property
    def n_scored(self) -> int:
        return sum(sum(scorer.calls) for scorer in self.scorers)


class FailingStore:
    """A memory store in which some uris are unavailable."""

    def __init__(self, *, down: set[str]) -> None:
        self.inner = MemoryStore()
        self.down = down
        self.fetched: list[str] = []
        self.list, self.confirm_missing = self.inner.list, self.inner.confirm_missing

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
        self.fetched.append(uri)
        if uri in self.down:
            raise StoreUnavailable("the bucket is unavailable: https://bucket/key?signature=secret")
        return self.inner.fetch(uri, etag=etag, max_bytes=max_bytes)


def pictures(n: int, *, start: int = 0) -> dict[str, bytes]:
    return {f"mem://a/{number}.png": png(number) for number in range(start, start + n)}


def scored(worker: Rig, images: dict[str, bytes], **how: Any) -> dict[str, float]:
    scan = worker.scan(images, **how)
    worker.drain()
    return worker.margins(scan)


def test_every_image_gets_exactly_one_verdict_that_names_its_scorer(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        scan = worker.scan(pictures(20))
        worker.drain()
        worker.drain()
        assert set(worker.states().values()) == {"verdict"}
        rows = worker.rows(Verdict)
        assert len(rows) == len({row.image_id for row in rows}) == 20
        assert len({row.scorer_id for row in rows}) == 1
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_pending, progress.n_reused) == (20, 0, 0)
        assert worker.rows(Scan)[0].state == "done"
        image = worker.rows(Image)[0]
        assert (image.width, image.height) == (40, 30)


def test_the_margin_depends_on_the_image_alone(tmp_path: Path) -> None:
    images = pictures(12)
    alone, together = HookedModel(), HookedModel()
    with rig(tmp_path / "a", model=alone, token_budget=16) as worker:
        single = scored(worker, images, batch_images=1)
    with rig(tmp_path / "b", model=together, batches_in_flight=1) as worker:
        many = scored(worker, images, batch_images=12)
    assert single == many


def test_answers_for_the_same_bytes_are_reused_under_any_name(tmp_path: Path) -> None:
    model = HookedModel()
    with rig(tmp_path, model=model) as worker:
        first = worker.scan(pictures(4))
        worker.drain()
        second = worker.scan({f"mem://b/{number}.png": png(number) for number in range(6)})
        worker.drain()
        assert model.n_scored == 6
        assert worker.progress(second).n_reused == 4
        old, new = worker.margins(first), worker.margins(second)
        assert [new[f"mem://b/{n}.png"] for n in range(4)] == [old[f"mem://a/{n}.png"] for n in range(4)]
        earlier = {row.id for row in worker.rows(Verdict, Verdict.scan_id == first)}
        reused = [row.reused_from for row in worker.rows(Verdict, Verdict.scan_id == second)]
        assert set(reused) - {None} == earlier


def test_a_version_scored_before_is_not_even_fetched(tmp_path: Path) -> None:
    store = FailingStore(down=set())
    with rig(tmp_path, store=store) as worker:
        worker.store = store.inner
        worker.scan(pictures(4))
        worker.drain()
        assert len(store.fetched) == 4
        second = worker.scan(pictures(4))
        worker.drain()
        assert len(store.fetched) == 4
        assert worker.progress(second).n_reused == 4


def test_without_a_version_the_name_proves_nothing(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        for seed in (1, 2):
            worker.store.objects["mem://a/x.png"] = png(seed)
            scan = worker.scan_listed([NewImage(uri="mem://a/x.png")])
            worker.drain()
        assert worker.progress(scan).n_reused == 0
        assert len({row.margin for row in worker.rows(Verdict)}) == 2


def test_duplicates_inside_a_batch_are_scored_once_and_each_has_its_verdict(tmp_path: Path) -> None:
    model = HookedModel()
    with rig(tmp_path, model=model) as worker:
        scan = worker.scan({f"mem://a/{number}.png": png(number % 3) for number in range(9)}, batch_images=9)
        worker.drain()
        assert model.n_scored == 3
        margins = worker.margins(scan)
        assert len(margins) == 9
        assert len(set(margins.values())) == 3


def test_another_check_is_another_scorer_and_reuses_nothing(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        worker.scan(pictures(3))
        worker.drain()
        other = worker.scan(pictures(3), check=load_check("baggage"))
        worker.drain()
        assert worker.progress(other).n_reused == 0
        assert len({row.scorer_id for row in worker.rows(Verdict)}) == 2


def test_a_broken_image_is_one_failure_and_its_neighbours_are_scored(tmp_path: Path) -> None:
    bad = {
        "mem://a/empty.png": b"",
        "mem://a/text.jpg": b"this is no picture",
        "mem://a/cut.png": png(1)[:-900],
        "mem://a/large.png": b"x" * 200_000,
        "mem://a/wide.png": plain(400, 400),
    }
    with rig(tmp_path, max_image_bytes=150_000, max_image_pixels=100_000) as worker:
        images = worker.put(bad | pictures(3, start=10))
        images.append(NewImage(uri="mem://a/gone.png", etag="1"))
        worker.scan_listed(images, batch_images=20)
        worker.drain()
        found = worker.failures()
        states = worker.states()
    assert found == {
        "mem://a/empty.png": ("decode", "empty"),
        "mem://a/text.jpg": ("decode", "not_an_image"),
        "mem://a/cut.png": ("decode", "truncated"),
        "mem://a/large.png": ("fetch", "too_large"),
        "mem://a/wide.png": ("decode", "too_many_pixels"),
        "mem://a/gone.png": ("fetch", "gone"),
    }
    assert [state for uri, state in states.items() if uri not in found] == ["verdict"] * 3


def test_an_image_with_a_transient_error_waits_while_the_others_are_written(tmp_path: Path) -> None:
    store = FailingStore(down={"mem://a/2.png"})
    with rig(tmp_path, store=store) as worker:
        worker.store = store.inner
        scan = worker.scan(pictures(5))
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (4, 0, 1)
        assert progress.waiting_for == "the bucket is unavailable: https://bucket/key"
        assert worker.states()["mem://a/2.png"] == "pending"
        store.down.clear()
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 5
        assert store.fetched.count("mem://a/0.png") == 1


def test_a_store_that_is_unavailable_is_not_asked_for_every_image(tmp_path: Path) -> None:
    images = pictures(60)
    store = FailingStore(down=set(images))
    with rig(tmp_path, store=store, fetch_threads=4) as worker:
        worker.store = store.inner
        scan = worker.scan(images, batch_images=60)
        worker.drain()
        assert 4 <= len(store.fetched) <= 12
        assert worker.progress(scan).n_pending == 60


def test_images_that_always_wait_do_not_hold_up_those_behind_them(tmp_path: Path) -> None:
    images = pictures(30)
    stuck = set(list(images)[:10])
    store = FailingStore(down=stuck)
    with rig(tmp_path, store=store, fetch_threads=2) as worker:
        worker.store = store.inner
        scan = worker.scan(images, batch_images=30)
        for _ in range(8):
            worker.drain()
            worker.forget_backoff()
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (20, 0, 10)


def test_a_model_that_cannot_run_makes_everything_wait(tmp_path: Path) -> None:
    busy = [True]

    def scoring(_: object) -> None:
        if busy[0]:
            raise DeviceUnavailable("the device is busy")

    with rig(tmp_path, model=HookedModel(scoring=scoring)) as worker:
        scan = worker.scan(pictures(5))
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_pending, progress.waiting_for) == (5, "the device is busy")
        busy[0] = False
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 5


def test_a_wrong_adapter_makes_the_batch_wait_with_its_reason(tmp_path: Path) -> None:
    class NoScorer(HookedModel):
        def scorer(self, question: Question, adapter: Path | None) -> Scorer:
            raise ModelInvalid("the adapter is damaged; restore the file")

    with rig(tmp_path, model=NoScorer()) as worker:
        scan = worker.scan(pictures(3))
        worker.drain()
        progress = worker.progress(scan)
        assert progress.n_pending == 3
        assert progress.waiting_for is not None
        assert "overlay" in progress.waiting_for
        assert "the adapter is damaged" in progress.waiting_for


@pytest.mark.parametrize("stage", ["preparing", "scoring"])
def test_a_bug_is_neither_a_verdict_nor_a_failure(tmp_path: Path, stage: str) -> None:
    def crash(_: object) -> None:
        raise KeyError("a bug")

    with rig(tmp_path, model=HookedModel(**cast("dict[str, Any]", {stage: crash}))) as worker:
        scan = worker.scan(pictures(3))
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (0, 0, 3)
        assert progress.waiting_for is not None
        assert progress.waiting_for.startswith("unexpected KeyError")


def test_a_bug_that_one_image_triggers_leaves_the_others_alone(tmp_path: Path) -> None:
    poison = PillowImage.open(io.BytesIO(png(2))).tobytes()

    def crash(image: PillowImage.Image) -> None:
        if image.tobytes() == poison:
            raise KeyError("a bug")

    with rig(tmp_path, model=HookedModel(preparing=crash)) as worker:
        scan = worker.scan(pictures(5))
        worker.drain()
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (4, 0, 1)


def test_a_worker_that_lost_its_lease_writes_nothing(tmp_path: Path) -> None:
    def steal(_: object) -> None:
        with transaction(box[0].engine) as connection:
            connection.execute(sa.update(Batch).values(lease_token=Batch.lease_token + 1))

    box: list[Rig] = []
    with rig(tmp_path, model=HookedModel(scoring=steal)) as worker:
        box.append(worker)
        worker.scan(pictures(4) | {"mem://a/bad.png": b""})
        worker.pipeline.run(None)
        assert worker.rows(Verdict) == []
        assert worker.rows(Failure) == []
        assert set(worker.states().values()) == {"pending"}


def test_a_cancelled_scan_ends_the_attempt_at_the_next_heartbeat(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        assert gate.wait(30)

    with rig(tmp_path, model=HookedModel(scoring=hold)) as worker:
        scan = worker.scan(pictures(4))
        running = threading.Thread(target=worker.pipeline.run, args=(None,))
        running.start()
        assert entered.wait(30)
        with transaction(worker.engine) as connection:
            scans.cancel(connection, scan)
        worker.pipeline.leases.beat()
        running.join(30)  # though the device is still busy with it
        assert not running.is_alive()
        gate.set()
        assert worker.rows(Verdict) == []
        assert set(worker.states().values()) == {"cancelled"}


def test_the_heartbeat_keeps_a_slow_batch(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        assert gate.wait(30)

    with rig(tmp_path, model=HookedModel(scoring=hold), lease_seconds=0.6) as worker:
        scan = worker.scan(pictures(2))
        running = threading.Thread(target=worker.pipeline.run, args=(None,))
        running.start()
        assert entered.wait(30)
        assert not threading.Event().wait(1.5)  # two and a half leases
        with transaction(worker.engine) as connection:
            assert crash_isolation.expire_leases(connection).n == 0
        gate.set()
        running.join(30)
        assert worker.progress(scan).n_verdicts == 2


def test_stopping_hands_back_what_cannot_finish(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        assert gate.wait(30)

    with rig(tmp_path, model=HookedModel(scoring=hold), drain_seconds=0.2) as worker:
        scan = worker.scan(pictures(4), batch_images=2)
        running = threading.Thread(target=worker.pipeline.run, args=(None,))
        running.start()
        assert entered.wait(30)
        worker.stop.request("test")
        running.join(30)
        assert not running.is_alive()
        batch = worker.rows(Batch)[0]
        assert (batch.state, batch.attempts, batch.notified_at, batch.not_before) == ("ready", 0, None, None)
        assert worker.progress(scan).n_pending == 4
        gate.set()
        worker.pipeline.run(None)  # a notification that comes now is not taken
        assert worker.pipeline.n_taken == 1


def test_stopping_lets_a_batch_finish_that_can(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        assert gate.wait(30)

    with rig(tmp_path, model=HookedModel(scoring=hold), drain_seconds=30) as worker:
        scan = worker.scan(pictures(4))
        running = threading.Thread(target=worker.pipeline.run, args=(None,))
        running.start()
        assert entered.wait(30)
        worker.stop.request("test")
        assert worker.stop.wait_draining(30)
        gate.set()
        running.join(30)
        assert worker.progress(scan).n_verdicts == 4


def test_a_second_request_hands_back_at_once(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        assert gate.wait(30)

    with rig(tmp_path, model=HookedModel(scoring=hold), drain_seconds=600) as worker:
        worker.scan(pictures(4))
        running = threading.Thread(target=worker.pipeline.run, args=(None,))
        running.start()
        assert entered.wait(30)
        worker.stop.request("first")
        worker.stop.request("second")
        running.join(30)
        assert not running.is_alive()
        assert worker.rows(Batch)[0].state == "ready"
        gate.set()


def test_a_notification_while_stopping_is_returned(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        worker.scan(pictures(1))
        with transaction(worker.engine) as connection:
            due = notifications.due_for_notification(connection, renotify_seconds=30, max_outstanding=10)
        worker.stop.request("test")
        assert worker.stop.wait_draining(30)
        worker.pipeline.run(due[0][0])
        assert worker.rows(Batch)[0].notified_at is None


def test_a_database_that_comes_back_in_time_gets_the_result(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        outage = worker.cut_database(Outage(marker="n_verdicts=", times=2))
        scan = worker.scan(pictures(3))
        worker.pipeline.run(None)
        assert outage.n == 2
        assert worker.progress(scan).n_verdicts == 3


def test_a_database_that_stays_away_past_the_lease_costs_the_attempt_only(tmp_path: Path) -> None:
    outage = Outage(on=False)

    def cut(_: object) -> None:
        outage.on = True

    with rig(tmp_path, model=HookedModel(scoring=cut), lease_seconds=1.0) as worker:
        worker.cut_database(outage)
        scan = worker.scan(pictures(3))
        worker.pipeline.run(None)
        assert outage.n > 1
        outage.on = False
        assert worker.progress(scan).n_pending == 3
        assert worker.rows(Verdict) == []
        assert worker.rows(Batch)[0].state == "leased"  # until the lease runs out


def test_a_claim_waits_for_the_database(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        scan = worker.scan(pictures(3))
        outage = worker.cut_database(Outage(marker="UPDATE batches", times=2))
        worker.pipeline.run(None)
        assert outage.n == 2
        assert worker.progress(scan).n_verdicts == 3


def test_the_time_of_every_stage_is_kept(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        worker.scan(pictures(3))
        worker.pipeline.run(None)
        sums = worker.rows(Batch)[0].seconds
        assert set(sums) == set(NAMES) - {"write"}  # a transaction cannot hold its own duration
        assert all(value >= 0 for value in sums.values())
        assert sums["decode"] > 0
        assert sums["threads"] == pytest.approx(worker.settings.fetch_threads * sums["under_way"], rel=0.01)
        assert sums["under_way"] >= sums["idle"]
        assert (sums["scored"], sums["tokens"], sums["padding"]) == (3, 3, 0)
        assert 1 <= sums["forwards"] <= 3
        n_images, totals = worker.pipeline.totals.read()
        assert n_images == 3
        assert totals["decode"] == sums["decode"]
        assert totals["write"] > 0
        assert totals["under_way"] > sums["under_way"]  # with the writing transaction


def test_images_are_decoded_only_as_the_device_needs_them(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()
    lock, n_prepared = threading.Lock(), [0]

    def count(_: object) -> None:
        with lock:
            n_prepared[0] += 1

    def hold(_: object) -> None:
        entered.set()
        assert gate.wait(60)

    model = HookedModel(preparing=count, scoring=hold)
    with rig(tmp_path, model=model, token_budget=16, fetch_threads=4) as worker:
        scan = worker.scan(pictures(120), batch_images=40)  # an image is one token
        running = [threading.Thread(target=worker.pipeline.run, args=(None,)) for _ in range(3)]
        for thread in running:
            thread.start()
        assert entered.wait(30)
        assert not threading.Event().wait(0.5)
        # In the forward, waiting for it, and one in each stage thread.
        assert n_prepared[0] <= 16 + 2 * 16 + 4
        gate.set()
        for thread in running:
            thread.join(60)
        assert worker.progress(scan).n_verdicts == 120


def test_a_batch_without_pending_images_is_closed(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        scan = worker.scan(pictures(3))
        worker.drain()
        with transaction(worker.engine) as connection:
            connection.execute(sa.update(Batch).values(state="ready"))
            connection.execute(sa.update(Scan).values(state="running"))
        worker.drain()
        assert worker.rows(Batch)[0].state == "done"
        assert worker.progress(scan).n_verdicts == 3


def test_several_batches_at_once_share_the_device(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        scan = worker.scan(pictures(64), batch_images=4)
        threads = [threading.Thread(target=worker.drain) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert worker.progress(scan).n_verdicts == 64
        assert len(worker.rows(Verdict)) == 64
