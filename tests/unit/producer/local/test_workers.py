"""Local worker processes: started with the right settings, watched, and always stopped."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scanfleet.config.settings import Settings, load_settings
from scanfleet.errors import UnknownModel, WorkerDied
from scanfleet.producer.local.workers import MAX_DEATHS, LocalWorkers, last_line

OBEDIENT = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True)"
IGNORES_SIGTERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
WAIT = "; time.sleep(600)"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path, model="fake", drain_seconds=0, broker_url="redis://:pw@h/0")


def pids(workers: LocalWorkers) -> list[int]:
    return [child.process.pid for child in workers._children]


@pytest.mark.parametrize(("code", "grace"), [(OBEDIENT, 60.0), (IGNORES_SIGTERM, 0.1)])
def test_workers_are_stopped_at_the_end_whatever_they_do(settings: Settings, code: str, grace: float) -> None:
    with LocalWorkers(settings, n=2, command=python(code + WAIT), grace_seconds=grace) as workers:
        workers.start()
        workers.start()  # a second time starts no others
        until(lambda: all("up" in log.read_text() for log in workers.logs))
        workers.check()
        started = pids(workers)
        assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


STUBBORN = (  # leaves at the second SIGTERM only
    "import signal, sys, time; asked = []; "
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0) if asked else asked.append(print('asked', flush=True))); "
    "print('up', flush=True)"
)


@pytest.mark.parametrize(("code", "n_interrupts"), [(STUBBORN, 1), (IGNORES_SIGTERM, 2)])
def test_interrupted_again_they_hand_back_at_once_and_then_are_killed(
    settings: Settings, code: str, n_interrupts: int
) -> None:
    printed: list[str] = []

    def say(line: str) -> None:
        printed.append(line)
        until(lambda: code == IGNORES_SIGTERM or all("asked" in log.read_text() for log in workers.logs))
        if len(printed) <= n_interrupts:
            raise KeyboardInterrupt

    begin = time.monotonic()
    workers = LocalWorkers(settings, n=1, command=python(code + WAIT), grace_seconds=300.0, say=say)
    workers.start()
    until(lambda: all("up" in log.read_text() for log in workers.logs))
    with pytest.raises(ValueError, match="over"), workers:
        raise ValueError("over")
    assert time.monotonic() - begin < 100
    assert [line.split(";")[0].split(":")[0] for line in printed] == ["stopping", "handing back now"]
    for pid in pids(workers):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_that_are_done_are_stopped_without_a_word(settings: Settings) -> None:
    printed: list[str] = []
    with LocalWorkers(settings, n=1, command=python(OBEDIENT + WAIT), say=printed.append) as workers:
        workers.start()
        until(lambda: all("up" in log.read_text() for log in workers.logs))
    assert printed == []


def test_a_worker_that_ended_is_quoted(settings: Settings) -> None:
    code = "import sys; print('one'); sys.stderr.write('cannot load the model\\n\\n'); sys.exit(3)"
    with LocalWorkers(settings, n=1, command=python(code)) as workers:
        workers.check()  # none started: nothing is wrong
        workers.start()
        with pytest.raises(WorkerDied, match=r"exit code 3\): cannot load the model \(log: ") as caught:
            until(lambda: workers.check() is not None)
    assert caught.value.exit_code == 21


def test_a_model_that_the_hub_refuses_ends_the_command_as_it_ended_the_worker(settings: Settings) -> None:
    code = "import sys; sys.stderr.write('scanfleet: model: the hub has no x/y\\n'); sys.exit(26)"
    with LocalWorkers(settings, n=1, command=python(code)) as workers:
        workers.start()
        with pytest.raises(UnknownModel, match=r"^model: the hub has no x/y \(log: ") as caught:
            until(lambda: workers.check() is not None)
    assert caught.value.exit_code == 26


@pytest.mark.slow
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(75)"])
def test_a_worker_that_was_killed_or_asks_for_it_is_started_again_but_not_for_ever(
    settings: Settings, end: str
) -> None:
    dead: list[int] = []
    printed: list[str] = []
    code = f"import os, sys; {end}"
    with LocalWorkers(settings, n=1, command=python(code), say=printed.append, on_death=dead.append) as workers:
        workers.start()
        for progress in (0, 1):  # an image done in between: the count begins anew
            until(lambda n=progress: workers.check(n) is None and len(dead) == (n + 1) * MAX_DEATHS)  # type: ignore[misc]
        with pytest.raises(WorkerDied):
            until(lambda: workers.check(1) is not None)
    assert len(set(dead)) == len(printed) == 2 * MAX_DEATHS
    assert all("another one takes over" in line for line in printed)


def test_the_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert "cannot be read" in last_line(log)
    log.write_bytes(b"")
    assert last_line(log) == "its log is empty"
    log.write_bytes(b"x" * 100_000 + b"\nthe \xff end\n \n")
    assert last_line(log) == "the \N{REPLACEMENT CHARACTER} end"
