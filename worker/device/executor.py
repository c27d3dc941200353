"""The threads that own the model: one for a device of our own, as many as an endpoint takes requests at once.

They take prepared images from all batches, packed by visual tokens.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import structlog

from models.types import Finder, Prepared, Refiner, Scorer
from scanfleet.errors import DeviceUnavailable, Retryable
from worker.device.queue import Answer, Kind, Result, Ticket, Waiting
from worker.device.token_budget import TokenBudget
from worker.errors import DeviceBroken, OutOfDeviceMemory
from worker.runtime.utilisation import Occupancy

log = structlog.get_logger()

WAITING_FORWARDS = 2  # forwards' worth of prepared images that may wait a lane: while one runs, the next is ready


class Device:
    """`submit` from any thread; the answer comes by callback from a device thread.

    token_budget: visual tokens of one forward, padding included. There are fewer after the device ran out of memory.
    lanes: forwards that may run at once, each in a thread of its own. one_by_one: each image is a forward of its own.
    """

    def __init__(
        self,
        *,
        token_budget: int,
        lanes: int = 1,
        one_by_one: bool = False,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = threading.Lock()  # of the budget, the forwards and the word that the device is broken
        # Finding keeps keys and values, pointing perhaps gradients: they may run out of memory sooner.
        self._budgets: dict[Kind, TokenBudget] = {kind: TokenBudget(token_budget) for kind in get_args(Kind)}
        self._on_broken = on_broken
        self._broken = False
        forwards = WAITING_FORWARDS * lanes
        capacity = forwards * (1 if one_by_one else token_budget)
        self._waiting = Waiting(capacity=capacity, one_by_one=one_by_one, least=forwards)
        self._numbers = itertools.count(1)
        self._forwards: set[int] = set()  # under way
        self._stopped = threading.Event()
        self._mine = threading.local()  # .number of the forward in this thread
        self.occupancy = Occupancy(lanes=lanes)
        self._threads = [threading.Thread(target=self._loop, name=f"device-{n}", daemon=True) for n in range(lanes)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def token_budget(self) -> int:
        """Of the next forward."""
        return self._budgets["score"].tokens

    @property
    def forward(self) -> int | None:
        """The number of the forward that has been under way longest; None while the device has nothing to do.

        A forward that hangs becomes and stays the oldest, whatever the other lanes do.
        """
        with self._lock:
            return min(self._forwards, default=None)

    def stop(self, *, wait_seconds: float | None = None) -> None:
        """End after the forwards under way; what still waits is answered with DeviceUnavailable.

        wait_seconds: how long to wait for those forwards in all; None: however long they take.
        """
        self._stopped.set()
        for ticket in self._waiting.close():
            ticket.answer(_fault(ticket, DeviceUnavailable("the worker is stopping")))
        until = None if wait_seconds is None else time.monotonic() + wait_seconds
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))

    def submit(self, *, owner: object, scorer: Scorer, prepared: Prepared, answer: Callable[[Answer], None]) -> None:
        """Queue one image; blocks while enough of them wait already. Raises DeviceUnavailable once stopped."""
        since = time.perf_counter()
        self._waiting.put(Ticket(owner=owner, scorer=scorer, prepared=prepared, answer=answer, since=since))

    def submit_late(
        self, *, owner: object, finder: Finder, prepared: Prepared, answer: Callable[[Answer], None]
    ) -> None:
        """Queue one image to find boxes in, behind those to score; as `submit` otherwise."""
        since, job = time.perf_counter(), finder.job(prepared)
        self._waiting.put(Ticket(owner=owner, scorer=finder, prepared=job, answer=answer, since=since, kind="find"))

    def submit_pointing(
        self, *, owner: object, refiner: Refiner, scorer: Scorer, views: Prepared, answer: Callable[[Answer], None]
    ) -> None:
        """Queue what a second look is pointed by, in line with its scorer; as `submit` otherwise."""
        since = time.perf_counter()
        ticket = Ticket(
            owner=owner, scorer=refiner, prepared=views, answer=answer, since=since, kind="point", beside=scorer
        )
        self._waiting.put(ticket)

    def forget(self, owner: object) -> None:
        """Drop what waits for an owner that no longer wants it; it gets no answer."""
        self._waiting.drop(owner)

    # in the device threads

    def _loop(self) -> None:
        while tickets := self._waiting.take(lambda kind: self._budgets[kind].tokens):
            self._run(tickets)

    def _run(self, tickets: Sequence[Ticket]) -> None:
        start = time.perf_counter()
        try:
            with self._under_way():
                results = _work(tickets, self._sign)
        except OutOfDeviceMemory as error:
            self._shrink(tickets, error)
        except DeviceBroken as error:
            _refuse(tickets, error)
            self._tell_broken()
        except Retryable as error:
            _refuse(tickets, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, this thread must outlive it
            self._isolate(tickets, error)
        else:
            self._went_well(tickets)
            _deliver(tickets, results, start=start, seconds=time.perf_counter() - start)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """A forward runs in here."""
        with self._lock:
            number = self._mine.number = next(self._numbers)
            self._forwards.add(number)
        try:
            with self.occupancy.forward():
                yield
        finally:
            with self._lock:
                self._forwards.discard(self._mine.number)

    def _sign(self) -> None:
        """A long forward goes on: it counts as a new one, so that it is not taken for one that hangs.

        Raises DeviceUnavailable once stopped, so that nobody waits for its end.
        """
        if self._stopped.is_set():
            raise DeviceUnavailable("the worker is stopping")
        with self._lock:
            self._forwards.discard(self._mine.number)
            self._mine.number = next(self._numbers)
            self._forwards.add(self._mine.number)

    def _went_well(self, tickets: Sequence[Ticket]) -> None:
        with self._lock:
            budget = self._budgets[tickets[0].kind]
            raised = budget.went_well(_tokens(tickets))
        if raised:
            log.info("token_budget_raised", new_budget=budget.tokens, full_budget=budget.full)

    def _tell_broken(self) -> None:
        """Once, however many lanes find out."""
        with self._lock:
            told, self._broken = self._broken, True
        if not told:
            self._on_broken()

    def _shrink(self, tickets: Sequence[Ticket], error: OutOfDeviceMemory) -> None:
        if len(tickets) == 1:
            # Not even one: another program may hold the memory, so the image waits; it is not at fault.
            _refuse(tickets, error)
            return
        used = _tokens(tickets)
        with self._lock:
            budget = self._budgets[tickets[0].kind]
            budget.shrink(used)
        log.warning("device_out_of_memory", images=len(tickets), tokens=used, new_budget=budget.tokens)
        try:
            self._waiting.put_back(tickets)
        except DeviceUnavailable as stopping:
            _refuse(tickets, stopping)

    def _isolate(self, tickets: Sequence[Ticket], error: Exception) -> None:
        """An unforeseen error in a forward of many: find whose it is, so that its neighbours are scored."""
        if len(tickets) == 1:
            _refuse(tickets, error)
            return
        log.warning("forward_failed", images=len(tickets), error=f"{type(error).__name__}: {error}")
        for ticket in tickets:
            self._run([ticket])


def _work(tickets: Sequence[Ticket], sign: Callable[[], None]) -> Sequence[Result]:
    prepared: list[Any] = [ticket.prepared for ticket in tickets]
    asked: Any = tickets[0].scorer
    results: Sequence[Result]
    match tickets[0].kind:
        case "score":
            results = asked.score(prepared)
        case "point":
            results = asked.point(prepared)
        case "find":
            results = asked.find(prepared, sign=sign)
    if len(results) != len(tickets):
        raise AssertionError(f"{len(results)} answers for {len(tickets)} images")
    return results


def _deliver(tickets: Sequence[Ticket], results: Sequence[Result], *, start: float, seconds: float) -> None:
    share = 1 / len(tickets)
    longest = max(ticket.prepared.visual_tokens for ticket in tickets)
    for ticket, result in zip(tickets, results, strict=True):
        given = Answer(
            result=result,
            waited=start - ticket.since,
            seconds=share * seconds,
            forwards=share,
            tokens=longest,
            padding=longest - ticket.prepared.visual_tokens,
        )
        ticket.answer(given)


def _tokens(tickets: Sequence[Ticket]) -> int:
    """Of their forward, padding included."""
    return len(tickets) * max(ticket.prepared.visual_tokens for ticket in tickets)


def _refuse(tickets: Sequence[Ticket], error: Exception) -> None:
    for ticket in tickets:
        ticket.answer(_fault(ticket, error))


def _fault(ticket: Ticket, error: Exception) -> Answer:
    return Answer(result=error, waited=time.perf_counter() - ticket.since, seconds=0.0)
