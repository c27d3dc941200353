"""Images/s of the stages, on a clock that the work advances; and the real stages with a fake model."""

import threading
from pathlib import Path

import pytest

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.errors import ImageError
from scanfleet.worker.commands.stage_rates import StageRates, per_second
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.scoring.model import FakeModel


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        self._lock = threading.Lock()

    def clock(self) -> float:
        return self.now

    def pass_by(self, seconds: float, name: str = "") -> None:
        with self._lock:
            self.now += seconds
            self.calls.append(name)


def test_calls_are_counted_in_turn_and_the_first_is_not() -> None:
    time = Time()
    work = [lambda: time.pass_by(0.5, "a"), lambda: time.pass_by(0.5, "b")]
    assert per_second(work, threads=1, seconds=2.0, clock=time.clock) == pytest.approx(2.0)
    assert time.calls == ["a", "b", "a", "b", "a"]


def test_one_call_is_always_counted() -> None:
    time = Time()
    assert per_second([lambda: time.pass_by(8.0)], threads=1, seconds=0.0, clock=time.clock) == pytest.approx(1 / 8)


def test_an_error_of_one_thread_is_the_error_of_all() -> None:
    def fail() -> None:
        raise ImageError(stage="decode", reason="truncated", detail="x")

    with pytest.raises(ImageError):
        per_second([lambda: None, fail], threads=4, seconds=0.01, clock=Time().clock)


def test_each_stage_has_a_rate(tmp_path: Path) -> None:
    model = FakeModel()
    settings = load_settings(data_dir=tmp_path, model="fake", fetch_threads=2)
    rates = StageRates(settings, model.scorer(question_of(load_check("overlay")), None), seconds=0.0)
    assert rates.decode() > 0
    assert rates.prepare() > 0
    assert rates.device(token_budget=2000, streams=2) > 0
