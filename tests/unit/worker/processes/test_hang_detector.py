"""What counts as a hang, and what does not: a slow download, a frozen process, a long forward within its time."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from scanfleet.config.settings import load_settings
from scanfleet.storage.base import FetchedObject
from scanfleet.storage.memory import MemoryStore
from scanfleet.worker.batch import context
from scanfleet.worker.processes.hang_detector import HangWatch, Limits
from scanfleet.worker.runtime.activity import ActivityTracker, BatchActivity
from tests.rigs.worker_rig import png, rig

LIMITS = Limits(forward=300.0, batch=120.0, worker=200.0)


@dataclass
class FakeDevice:
    forward: int | None = None


@dataclass
class Scene:
    """A worker that a watch checks every ten seconds of a clock that the test sets."""

    time: float = 1000.0
    n_active: int = 1
    device: FakeDevice = field(default_factory=FakeDevice)
    hung: list[str] = field(default_factory=list)
    under_way: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tracker = ActivityTracker(clock=lambda: self.time)
        self.watch = HangWatch(
            device=self.device,  # type: ignore[arg-type]
            tracker=self.tracker,
            counts=lambda: (1, self.n_active),
            limits=LIMITS,
            on_hung=self.hung.append,
            clock=lambda: self.time,
        )

    def pass_by(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        for _ in range(int(seconds / 10)):
            meanwhile()
            self.watch.check()
            self.time += 10

    def batch(self, name: str = "one") -> tuple[BatchActivity, list[str]]:
        """A batch that stays under way."""
        aborted: list[str] = []
        activity = self.tracker.activity(aborted.append, name=name)
        context = self.tracker.under_way(activity)
        self.under_way.append(context)  # a context that nobody holds ends
        context.__enter__()
        return activity, aborted


def test_a_forward_that_takes_too_long_is_a_device_that_hangs() -> None:
    scene = Scene(device=FakeDevice(forward=1))
    scene.pass_by(300)
    assert scene.hung == []
    scene.pass_by(20)
    assert "310 s" in scene.hung[0]


def test_many_forwards_are_no_long_forward() -> None:
    scene = Scene()

    def forward() -> None:
        scene.device.forward = (scene.device.forward or 0) + (scene.time % 200 == 0)

    scene.pass_by(2000, forward)
    assert scene.hung == []


def test_a_worker_without_activity_ends_and_one_with_any_does_not() -> None:
    scene = Scene()
    activity, aborted = scene.batch()
    scene.pass_by(1000, activity.sign)
    assert scene.hung == []
    scene.pass_by(200)
    assert scene.hung == []
    scene.pass_by(20)
    assert "210 s" in scene.hung[0]
    assert aborted == []  # no batch continues: the lease runs out, and the batch is run as a suspect


def test_an_idle_worker_is_not_stuck() -> None:
    scene = Scene(n_active=0)
    scene.pass_by(10_000)
    assert scene.hung == []


def test_slow_batches_are_given_three_times_what_they_usually_take() -> None:
    scene = Scene()
    for _ in range(100):
        with scene.tracker.under_way(scene.tracker.activity(lambda _: None, name="done")):
            scene.time += 100
    scene.batch()
    scene.pass_by(300)
    assert scene.hung == []
    scene.pass_by(30)
    assert scene.hung != []


def test_a_download_within_its_deadline_is_no_hang() -> None:
    scene = Scene()
    activity, _ = scene.batch()
    ended = activity.expect(seconds=500)
    scene.pass_by(490)
    assert scene.hung == []
    scene.pass_by(30)
    assert scene.hung != []  # past its deadline it is
    later = Scene()
    activity, _ = later.batch()
    ended = activity.expect(seconds=10_000)
    later.pass_by(500)
    ended()
    later.pass_by(190)
    assert later.hung == []
    later.pass_by(30)
    assert later.hung != []  # it has ended, so it is no excuse any more


def test_a_stuck_batch_among_others_is_handed_back() -> None:
    scene = Scene(n_active=2)
    activity, stuck = scene.batch("stuck")
    activity.expect(seconds=0)
    _, waiting = scene.batch("waiting for its turn")
    lively, well = scene.batch("lively")
    with capture_logs() as logs:
        scene.pass_by(120, lively.sign)
        assert stuck == []
        scene.pass_by(20, lively.sign)
    assert "130 s" in stuck[0]
    assert [waiting, well, scene.hung] == [[], [], []]
    assert [entry["batch"] for entry in logs if entry["event"] == "batch_stuck"] == ["stuck"]
    scene.pass_by(250, lively.sign)
    assert waiting != []


def test_a_batch_that_waits_for_a_long_forward_is_not_stuck() -> None:
    scene = Scene(n_active=2, device=FakeDevice(forward=1))
    activity, waiting = scene.batch()
    activity.expect(seconds=0)
    lively, _ = scene.batch()
    scene.pass_by(290, lively.sign)
    assert waiting == []


def test_a_frozen_process_has_its_time_again() -> None:
    """SIGSTOP: the monotonic clock runs on. After SIGCONT the watch must not end it before anything could happen."""
    scene = Scene(device=FakeDevice(forward=1))
    scene.batch()
    scene.pass_by(50)
    scene.time += 100_000
    scene.pass_by(200)
    assert scene.hung == []
    scene.pass_by(60)
    assert scene.hung != []


def test_the_limits_come_from_the_settings(tmp_path: Path) -> None:
    def limits(**settings: Any) -> Limits:
        return Limits.of(load_settings(data_dir=tmp_path, **settings))

    assert limits() == Limits(forward=300, batch=120, worker=120)
    assert limits(lease_seconds=600).worker == 1200  # a batch may wait for the database as long as it is held
    assert limits(device_timeout_seconds=2).check_seconds == pytest.approx(0.2)


def test_a_batch_whose_store_never_answers_is_handed_back_with_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    class HalfDead(MemoryStore):
        """Some of its objects never come, whatever the deadline: a network mount whose server is gone."""

        def fetch(self, uri: str, *, etag: str | None, max_bytes: int) -> FetchedObject:
            if "dead" in uri:
                answers.wait(60)
            return store.fetch(uri, etag=etag, max_bytes=max_bytes)

    store = MemoryStore()
    monkeypatch.setattr(context, "RETRY_SECONDS", 0.1)
    with rig(tmp_path, store=HalfDead(), fetch_threads=4, fetch_deadline_seconds=0.1) as worker:
        store = worker.store
        scan = worker.scan({f"mem://{name}": png(seed) for seed, name in enumerate(("a", "b", "dead"))})
        watch = HangWatch(
            device=worker.scoring.device,
            tracker=worker.scoring.tracker,
            counts=lambda: (worker.pipeline.n_taken, worker.pipeline.n_active),
            limits=Limits(forward=60, batch=1.5, worker=60),  # a decoder process takes its time to start
            on_hung=lambda reason: pytest.fail(reason),
        )
        thread = threading.Thread(target=worker.pipeline.run, args=(None,))
        thread.start()
        while thread.is_alive():
            worker.scoring.tracker.whole.sign()  # another batch continues
            watch.check()
            thread.join(0.02)
        answers.set()
        progress = worker.progress(scan)
        assert (progress.n_verdicts, progress.n_failures, progress.n_pending) == (2, 0, 1)
        worker.forget_backoff()
        worker.drain()
        assert worker.progress(scan).n_verdicts == 3
