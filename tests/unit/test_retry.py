"""Calls are repeated after the errors that they name, for as long as their deadline and the pause allow."""

import time
from collections.abc import Callable

import pytest

from scanfleet.errors import DatabaseUnavailable, StoreUnavailable
from scanfleet.retry import retry, retry_database
from scanfleet.worker.runtime.retry import retry_startup, retry_until
from scanfleet.worker.runtime.shutdown import Stop


def service(*outcomes: Exception | str) -> Callable[[], str]:
    """A call that raises or returns these in turn."""
    left = iter(outcomes)

    def ask() -> str:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return ask


def test_the_database_is_waited_for_and_nothing_else() -> None:
    away = DatabaseUnavailable("away")
    assert retry_database(service(away, away, "here"), delays=(0.0, 0.0)) == "here"
    with pytest.raises(DatabaseUnavailable, match="still"):
        retry_database(service(away, DatabaseUnavailable("still away"), "too late"), delays=(0.0,))
    with pytest.raises(ValueError, match="a bug"):
        retry_database(service(ValueError("a bug"), "here"), delays=(0.0,))


def test_each_error_is_reported_before_its_pause_until_the_pause_is_cut_short() -> None:
    events: list[object] = []

    def pause(seconds: float) -> bool:
        events.append(seconds)
        return seconds == 2.0

    with pytest.raises(KeyError, match="second"):
        retry(
            service(KeyError("first"), KeyError("second"), "too late"),
            on=KeyError,
            waits=(1.0, 2.0, 3.0),
            report=lambda error, seconds: events.append((error.args[0], seconds)),
            pause=pause,
        )
    assert events == [("first", 1.0), 1.0, ("second", 2.0), 2.0]


def test_a_deadline_that_moves_is_read_anew_and_ends_the_tries() -> None:
    away = DatabaseUnavailable("away")
    now = time.monotonic()
    deadlines = iter((now + 60, now))
    stop = Stop(drain_seconds=60)
    with pytest.raises(DatabaseUnavailable, match="last"):
        retry_until(service(away, DatabaseUnavailable("last"), "late"), until=lambda: next(deadlines), stop=stop)


def test_a_worker_that_hands_back_makes_no_further_try() -> None:
    stop = Stop(drain_seconds=60)
    stop.request("once")
    stop.request("twice")
    assert stop.wait_hand_back(60)
    with pytest.raises(DatabaseUnavailable, match="first"):
        retry_until(service(DatabaseUnavailable("first"), "late"), until=lambda: time.monotonic() + 60, stop=stop)


def test_a_start_reports_every_transient_error_and_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanfleet.worker.runtime.retry.jittered", lambda _: 0.0)
    reported: list[str] = []
    call = service(StoreUnavailable("bucket"), DatabaseUnavailable("database"), "up")
    assert retry_startup(call, what="model", on_error=reported.append) == "up"
    assert reported == ["bucket", "database"]
