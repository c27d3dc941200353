"""Forwards of one adapter overlap, those of two never do, and whoever waits is not overtaken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from scanfleet.models.network.lock import SharedLock

SECONDS = 10.0  # for what must happen; nothing is waited for as long when it does


def _inside(turn: AbstractContextManager[None], entered: threading.Event, leave: threading.Event) -> Callable[[], None]:
    def work() -> None:
        with turn:
            entered.set()
            assert leave.wait(SECONDS)

    return work


def _wait_until_waiting(lock: SharedLock, n: int) -> None:
    with lock._changed:
        assert lock._changed.wait_for(lambda: len(lock._waiting) == n, SECONDS)


def test_forwards_of_one_adapter_run_at_the_same_time() -> None:
    lock, both = SharedLock(), threading.Barrier(2)

    def work() -> None:
        with lock.shared("a"):
            both.wait(SECONDS)  # broken when the other one is kept out

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work), pool.submit(work)]:
            done.result(SECONDS)


def test_another_adapter_and_a_change_wait_and_are_not_overtaken() -> None:
    lock, leave = SharedLock(), threading.Event()
    entered = threading.Event()
    order: list[str] = []

    def enter(name: str, turn: AbstractContextManager[None]) -> None:
        with turn:
            order.append(name)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(_inside(lock.shared("a"), entered, leave))
        assert entered.wait(SECONDS)
        rest = []
        for name, turn in (("b", lock.shared("b")), ("change", lock.exclusive()), ("a again", lock.shared("a"))):
            rest.append(pool.submit(enter, name, turn))
            _wait_until_waiting(lock, len(rest))
        assert not order
        leave.set()
        for done in [first, *rest]:
            done.result(SECONDS)
    assert order == ["b", "change", "a again"]


def test_a_turn_ends_with_an_error_too() -> None:
    lock = SharedLock()
    with pytest.raises(KeyError), lock.exclusive():
        {}.pop("missing")
    entered = threading.Event()
    entered.set()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_inside(lock.shared("a"), threading.Event(), entered)).result(SECONDS)
