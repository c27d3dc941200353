"""The lock for many batches together or one alone, and the pause of a worker whose model cannot run."""

import threading

import pytest

from scanfleet.worker.batch.attempt import Aborted
from scanfleet.worker.batch.isolation import IsolationLock
from scanfleet.worker.runtime.circuit_breaker import Breaker


def never() -> bool:
    return False


def test_one_alone_waits_for_the_others_and_keeps_new_ones_out() -> None:
    lock = IsolationLock()
    order: list[str] = []
    alone_waits, alone_in, leave = threading.Event(), threading.Event(), threading.Event()

    def alone() -> None:
        with lock.alone(given_up=lambda: bool(alone_waits.set())):
            order.append("alone")
            alone_in.set()
            assert leave.wait(10)

    def late() -> None:
        with lock.together(given_up=never):
            order.append("late")

    with lock.together(given_up=never), lock.together(given_up=never):
        one = threading.Thread(target=alone)
        one.start()
        assert alone_waits.wait(10)
        other = threading.Thread(target=late)
        other.start()
        assert not alone_in.wait(0.2)
        order.append("first two leave")
    assert alone_in.wait(10)
    assert order == ["first two leave", "alone"]
    leave.set()
    one.join(10)
    other.join(10)
    assert order == ["first two leave", "alone", "late"]


@pytest.mark.parametrize("way", ["alone", "together"])
def test_a_batch_that_is_given_up_stops_waiting(way: str) -> None:
    lock = IsolationLock()
    given_up, asked = threading.Event(), threading.Event()
    outcome: list[str] = []

    def ask() -> bool:
        asked.set()
        return given_up.is_set()

    def wait() -> None:
        try:
            with getattr(lock, way)(given_up=ask):
                outcome.append("in")
        except Aborted:
            outcome.append("aborted")

    with lock.alone(given_up=never):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert asked.wait(10)
        given_up.set()
        lock.wake()
        waiting.join(10)
        assert outcome == ["aborted"]
    with lock.alone(given_up=never):  # the batch that was given up does not block others
        pass


def test_a_breaker_opens_for_longer_each_time_and_closes_at_the_first_success() -> None:
    clock = [100.0]
    breaker = Breaker(clock=lambda: clock[0])
    assert breaker.seconds_left == 0
    pauses = []
    for _ in range(9):
        breaker.trip("busy")
        breaker.trip("busy")  # a second batch with the same error
        pauses.append(breaker.seconds_left)
        clock[0] += breaker.seconds_left
        assert breaker.seconds_left == 0
    assert all(
        low <= pause <= high for pause, low, high in zip(pauses, (0.5, 1, 2, 4, 8), (1, 2, 4, 8, 16), strict=False)
    )
    breaker.trip("busy")
    breaker.reset()
    assert breaker.seconds_left == 0
    breaker.trip("busy")
    assert breaker.seconds_left <= 1
