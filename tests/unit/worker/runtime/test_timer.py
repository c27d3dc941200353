"""Timers, the stop switch and the watchdog."""

import threading
import time
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from scanfleet.errors import DatabaseUnavailable
from scanfleet.worker.runtime import shutdown
from scanfleet.worker.runtime import timer as timers
from scanfleet.worker.runtime.shutdown import Stop
from scanfleet.worker.runtime.timer import Timer
from scanfleet.worker.runtime.watchdog import Watchdog


def test_a_timer_outlives_transient_errors_and_bugs() -> None:
    calls: list[int] = []
    enough = threading.Event()

    def call() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise DatabaseUnavailable("away")
        if len(calls) == 2:
            raise KeyError("a bug")
        enough.set()

    timer = Timer("test", call, seconds=0.01)
    with capture_logs() as logs:
        timer.start()
        assert enough.wait(30)
        timer.stop()
    assert [entry["event"] for entry in logs] == ["timer_retry", "timer_crashed"]


def test_a_stopped_timer_calls_no_more() -> None:
    calls: list[int] = []
    timer = Timer("test", lambda: calls.append(1), seconds=0.001)
    timer.start()
    timer.stop()
    n = len(calls)
    assert not threading.Event().wait(0.05)
    assert len(calls) == n


def test_a_timer_whose_call_hangs_holds_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "STOP_SECONDS", 0.1)
    entered, answer = threading.Event(), threading.Event()

    def call() -> None:
        entered.set()
        answer.wait(30)

    timer = Timer("test", call, seconds=3600)
    timer.start()
    assert entered.wait(30)
    start = time.monotonic()
    timer.stop()
    assert time.monotonic() - start < 10
    answer.set()


def test_a_heartbeat_that_failed_comes_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "AGAIN_SECONDS", 0.01)
    calls: list[int] = []
    repeated = threading.Event()

    def call() -> None:
        calls.append(1)
        if len(calls) > 1:
            repeated.set()
        raise DatabaseUnavailable("away")

    timer = Timer("test", call, seconds=3600)
    timer.start()
    assert repeated.wait(30)
    timer.stop()


def test_a_worker_that_does_not_end_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "HAND_BACK_SECONDS", 0.2)
    events: list[str] = []
    overdue = threading.Event()

    def on_overdue() -> None:
        events.append("overdue")
        overdue.set()

    stop = Stop(drain_seconds=0.5, on_overdue=on_overdue)
    stop.listen("batch", lambda: events.append("hand back"))
    start = time.monotonic()
    stop.request("SIGTERM")
    assert stop.wait_hand_back(30)
    assert time.monotonic() - start > 0.25  # what is under way may finish first
    assert overdue.wait(30)
    assert events == ["hand back", "overdue"]
    assert 0.45 < time.monotonic() - start < 10


def test_the_first_request_drains_and_the_time_hands_back() -> None:
    stop = Stop(drain_seconds=0.1)
    called = threading.Event()
    stop.listen("batch", called.set)
    assert not stop.wait_draining(0)
    stop.request("SIGTERM")
    assert stop.wait_draining(30)
    assert called.wait(30)
    assert stop.wait_hand_back(0)


def test_a_listener_that_comes_late_is_called_and_one_that_left_is_not() -> None:
    stop = Stop(drain_seconds=0)
    left, late = threading.Event(), threading.Event()
    stop.listen("left", left.set)
    stop.unlisten("left")
    stop.request("SIGTERM")
    assert stop.wait_hand_back(30)
    stop.listen("late", late.set)
    assert late.is_set()
    assert not left.is_set()


@dataclass
class Scene:
    """The state that a watchdog checks."""

    work: bool = True
    broker: bool = True
    taken: int = 0
    active: int = 0
    time: float = 0.0
    barks: int = 0

    def watchdog(self) -> Watchdog:
        def bark() -> None:
            self.barks += 1

        return Watchdog(
            has_work=lambda: self.work,
            broker_responds=lambda: self.broker,
            n_taken=lambda: self.taken,
            active=lambda: self.active,
            stalled=bark,
            patience_seconds=120,
            clock=lambda: self.time,
        )

    def pass_by(self, dog: Watchdog, seconds: int) -> None:
        for _ in range(0, seconds, 10):
            self.time += 10
            dog.check()


def test_the_watchdog_barks_after_a_long_silence_beside_work() -> None:
    scene = Scene()
    dog = scene.watchdog()
    scene.pass_by(dog, 120)
    assert scene.barks == 0
    scene.pass_by(dog, 30)
    assert scene.barks == 1


def test_the_watchdog_is_quiet_while_batches_come_while_there_are_none_and_while_the_broker_is_away() -> None:
    busy = Scene(active=1)
    busy.pass_by(busy.watchdog(), 1000)
    idle = Scene(work=False)
    idle.pass_by(idle.watchdog(), 1000)
    away = Scene(broker=False)
    away.pass_by(away.watchdog(), 1000)
    heard = Scene()
    dog = heard.watchdog()
    for _ in range(10):
        heard.pass_by(dog, 100)
        heard.taken += 1
    assert [scene.barks for scene in (busy, idle, away, heard)] == [0, 0, 0, 0]
