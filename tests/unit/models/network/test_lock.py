"""Forwards of one adapter overlap, those of two never do, and whoever waits is not overtaken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from models.network.lock import Turns

SECONDS = 10.0  # for what must happen; nothing is waited for as long when it does


def _inside(turn: AbstractContextManager[None], entered: threading.Event, leave: threading.Event) -> Callable[[], None]:
    def work() -> None:
        with turn:
            entered.set()
            assert leave.wait(SECONDS)

    return work


def _wait_until_waiting(turns: Turns, n: int) -> None:
    with turns._changed:
        assert turns._changed.wait_for(lambda: len(turns._waiting) == n, SECONDS)


def test_forwards_of_one_adapter_run_at_the_same_time() -> None:
    turns, both = Turns(), threading.Barrier(2)

    def work() -> None:
        with turns.shared("a"):
            both.wait(SECONDS)  # broken when the other one is kept out

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work), pool.submit(work)]:
            done.result(SECONDS)


def test_another_adapter_and_a_change_wait_and_are_not_overtaken() -> None:
    turns, leave = Turns(), threading.Event()
    entered = threading.Event()
    order: list[str] = []

    def enter(name: str, turn: AbstractContextManager[None]) -> None:
        with turn:
            order.append(name)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(_inside(turns.shared("a"), entered, leave))
        assert entered.wait(SECONDS)
        rest = []
        for name, turn in (("b", turns.shared("b")), ("change", turns.alone()), ("a again", turns.shared("a"))):
            rest.append(pool.submit(enter, name, turn))
            _wait_until_waiting(turns, len(rest))
        assert not order
        leave.set()
        for done in [first, *rest]:
            done.result(SECONDS)
    assert order == ["b", "change", "a again"]


def test_a_turn_ends_with_an_error_too() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.alone():
        {}.pop("missing")
    entered = threading.Event()
    entered.set()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_inside(turns.shared("a"), threading.Event(), entered)).result(SECONDS)
