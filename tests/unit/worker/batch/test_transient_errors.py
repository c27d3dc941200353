"""Stopping, pausing and transient errors: results are kept, and unavailable services are left alone."""

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from scanfleet.db.engine import now, transaction
from scanfleet.db.scans import notifications, scans
from scanfleet.db.scans.source_breaker import LIMIT
from scanfleet.db.tables import Batch, Scan
from scanfleet.errors import DeviceUnavailable
from scanfleet.retry import MAX_BACKOFF_SECONDS
from tests.helpers.patience import patient
from tests.rigs.worker_rig import Rig, rig
from tests.unit.worker.batch.test_pipeline import FailingStore, HookedModel, pictures


class Hold:
    """Lets the first `free` forwards pass and blocks the others."""

    def __init__(self, *, free: int) -> None:
        self._free = free
        self.held, self.gate = threading.Event(), threading.Event()

    def __call__(self, _: Sequence[Any]) -> None:
        self._free -= 1
        if self._free < 0:
            self.held.set()
            assert self.gate.wait(30)


def in_the_middle(worker: Rig, hold: Hold, act: Callable[[], None]) -> None:
    """Act while one batch is half done, and wait until the worker has released it."""
    running = threading.Thread(target=worker.pipeline.run, args=(None,))
    running.start()
    assert hold.held.wait(30)
    act()
    running.join(30)
    assert not running.is_alive()
    hold.gate.set()


def due(worker: Rig) -> list[int]:
    with transaction(worker.engine) as connection:
        due = notifications.due_for_notification(connection, renotify_seconds=30, max_outstanding=100)
    return [batch_id for batch_id, _ in due]


def delay_retries(worker: Rig) -> None:
    """Make deferred batches wait longer than the test takes on a slow machine."""
    with transaction(worker.engine) as connection:
        later = now(connection) + timedelta(seconds=MAX_BACKOFF_SECONDS)
        connection.execute(sa.update(Batch).where(Batch.not_before.is_not(None)).values(not_before=later))


def test_a_hand_back_keeps_the_verdicts_so_far(tmp_path: Path) -> None:
    hold = Hold(free=2)
    with rig(tmp_path, model=HookedModel(scoring=hold), token_budget=16, drain_seconds=600, fetch_threads=1) as worker:
        scan = worker.scan(pictures(60), batch_images=60)  # 16 images a forward
        in_the_middle(worker, hold, lambda: [worker.stop.request(reason) for reason in ("first", "second")] and None)
        done = worker.progress(scan)
        batch = worker.rows(Batch)[0]
        assert 0 < done.n_verdicts < 60
        assert done.n_verdicts == batch.n_verdicts == len(worker.margins(scan))
        assert (batch.state, batch.attempts, batch.notified_at, batch.not_before) == ("ready", 0, None, None)


def test_pausing_a_scan_hands_its_batches_back_within_the_reconcile_interval(tmp_path: Path) -> None:
    hold = Hold(free=1)
    with rig(tmp_path, model=HookedModel(scoring=hold), token_budget=16, reconcile_seconds=0.1) as worker:
        scan = worker.scan(pictures(40), batch_images=40)

        def pause() -> None:
            with transaction(worker.engine) as connection:
                scans.pause(connection, scan)

        in_the_middle(worker, hold, pause)
        done = worker.progress(scan)
        assert worker.rows(Batch)[0].state == "ready"
        assert 0 < done.n_verdicts < 40
        with transaction(worker.engine) as connection:
            scans.resume(connection, scan)
        worker.drain()
        assert worker.progress(scan).n_verdicts == 40


def test_cancelling_a_scan_ends_its_batches_within_the_reconcile_interval(tmp_path: Path) -> None:
    hold = Hold(free=0)
    with rig(tmp_path, model=HookedModel(scoring=hold), reconcile_seconds=0.1, lease_seconds=600) as worker:
        scan = worker.scan(pictures(4))

        def cancel() -> None:
            with transaction(worker.engine) as connection:
                scans.cancel(connection, scan)

        in_the_middle(worker, hold, cancel)  # long before a heartbeat of this lease
        assert worker.progress(scan).n_cancelled == 4


def test_a_store_that_is_unavailable_holds_its_scan_and_one_probe_frees_it(tmp_path: Path) -> None:
    images = pictures(40)
    store = FailingStore(down=set(images))
    with rig(tmp_path, store=store, fetch_threads=2) as worker:
        worker.store = store.inner
        scan = worker.scan(images, batch_images=4)
        assert len(due(worker)) == 10
        worker.drain()
        assert worker.pipeline.n_taken == LIMIT  # the other batches are left alone
        assert worker.progress(scan).waiting_for == "the bucket is unavailable: https://bucket/key"
        assert due(worker) == []
        with transaction(worker.engine) as connection:
            connection.execute(sa.update(Scan).values(not_before=None))
        probe = due(worker)
        assert len(probe) == 1
        assert due(worker) == []
        store.down.clear()
        delay_retries(worker)
        worker.pipeline.run(probe[0])
        assert worker.rows(Scan)[0].trouble == 0
        assert len(due(worker)) == 10 - LIMIT - 1  # at once, although they were notified before
        worker.drain()
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 40


def test_images_that_never_arrive_do_not_delay_the_rest(tmp_path: Path) -> None:
    images = pictures(80)
    store = FailingStore(down=set(list(images)[:20]))  # the first five batches
    with rig(tmp_path, store=store, fetch_threads=2) as worker:
        worker.store = store.inner
        scan = worker.scan(images, batch_images=4)
        for _ in range(20):
            worker.drain()
            if worker.progress(scan).n_verdicts == 60:
                break
            with transaction(worker.engine) as connection:  # every pause is over
                connection.execute(sa.update(Scan).values(not_before=None))
                connection.execute(sa.update(Batch).values(not_before=None))
            for batch_id in due(worker):
                worker.pipeline.run(batch_id)
        assert worker.progress(scan).n_verdicts == 60
        assert worker.progress(scan).n_failures == 0


@pytest.mark.parametrize("how", ["scoring", "loading"])
def test_a_worker_whose_model_cannot_run_stops_taking_batches_until_it_can(tmp_path: Path, how: str) -> None:
    is_busy = [True]

    def busy(_: object) -> None:
        if is_busy[0]:
            raise DeviceUnavailable("the device is busy")

    class Model(HookedModel):
        def scorer(self, *about: Any) -> Any:
            if how == "loading":
                busy(None)
            return super().scorer(*about)

    with rig(tmp_path, model=Model(scoring=busy)) as worker:
        scan = worker.scan(pictures(20), batch_images=4)
        worker.pipeline.run(None)
        assert worker.progress(scan).waiting_for is not None
        assert worker.pipeline.n_taken == 1
        worker.stop.request("test")  # the next notification waits for the pause to end, or for this
        assert worker.stop.wait_draining(patient(60))
        worker.pipeline.run(None)
        assert worker.pipeline.n_taken == 1
    is_busy[0] = False
    with rig(tmp_path, model=Model(scoring=busy)) as worker:
        worker.put(pictures(20))
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 20


def test_one_success_makes_the_next_pause_a_short_one_again(tmp_path: Path) -> None:
    is_busy = [True]

    def busy(_: object) -> None:
        if is_busy[0]:
            raise DeviceUnavailable("the device is busy")

    with rig(tmp_path, model=HookedModel(scoring=busy)) as worker, capture_logs() as logs:
        worker.scan(pictures(12), batch_images=4)
        worker.pipeline.run(None)
        is_busy[0] = False
        worker.pipeline.run(None)  # waits for the end of the pause first
        assert worker.pipeline.seconds_paused == 0
        is_busy[0] = True
        worker.pipeline.run(None)
    pauses = [each["seconds"] for each in logs if each["event"] == "claims_paused"]
    assert len(pauses) == 2
    assert 0.5 <= max(pauses) <= 1  # a second pause in a row would take one to two seconds
