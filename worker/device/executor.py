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

from models.types import CropReader, Finder, Prepared, Scorer
from scanfleet.errors import DeviceUnavailable, Retryable
from worker.device.queue import Answer, DeviceQueue, Kind, Result, WorkItem
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
        streams: int = 1,
        one_by_one: bool = False,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = threading.Lock()  # of the budget, the forwards and the word that the device is broken
        # Finding keeps keys and values, pointing perhaps gradients: they may run out of memory sooner.
        self._budgets: dict[Kind, TokenBudget] = {kind: TokenBudget(token_budget) for kind in get_args(Kind)}
        self._on_broken = on_broken
        self._broken = False
        forwards = WAITING_FORWARDS * streams
        capacity = forwards * (1 if one_by_one else token_budget)
        self._queue = DeviceQueue(capacity=capacity, one_by_one=one_by_one, least=forwards)
        self._numbers = itertools.count(1)
        self._forwards: set[int] = set()  # under way
        self._stopped = threading.Event()
        self._mine = threading.local()  # .number of the forward in this thread
        self.occupancy = Occupancy(streams=streams)
        self._threads = [threading.Thread(target=self._loop, name=f"device-{n}", daemon=True) for n in range(streams)]

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
        for item in self._queue.close():
            item.answer(_fault(item, DeviceUnavailable("the worker is stopping")))
        until = None if wait_seconds is None else time.monotonic() + wait_seconds
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))

    def submit(self, *, owner: object, scorer: Scorer, prepared: Prepared, answer: Callable[[Answer], None]) -> None:
        """Queue one image; blocks while enough of them wait already. Raises DeviceUnavailable once stopped."""
        since = time.perf_counter()
        self._queue.put(WorkItem(owner=owner, scorer=scorer, prepared=prepared, answer=answer, since=since))

    def submit_late(
        self, *, owner: object, finder: Finder, prepared: Prepared, answer: Callable[[Answer], None]
    ) -> None:
        """Queue one image to find boxes in, behind those to score; as `submit` otherwise."""
        since, job = time.perf_counter(), finder.job(prepared)
        self._queue.put(WorkItem(owner=owner, scorer=finder, prepared=job, answer=answer, since=since, kind="find"))

    def submit_pointing(
        self,
        *,
        owner: object,
        crop_reader: CropReader,
        scorer: Scorer,
        views: Prepared,
        answer: Callable[[Answer], None],
    ) -> None:
        """Queue what a second look is pointed by, in line with its scorer; as `submit` otherwise."""
        since = time.perf_counter()
        item = WorkItem(
            owner=owner, scorer=crop_reader, prepared=views, answer=answer, since=since, kind="point", beside=scorer
        )
        self._queue.put(item)

    def forget(self, owner: object) -> None:
        """Drop what waits for an owner that no longer wants it; it gets no answer."""
        self._queue.drop(owner)

    # in the device threads

    def _loop(self) -> None:
        while items := self._queue.take(lambda kind: self._budgets[kind].tokens):
            self._run(items)

    def _run(self, items: Sequence[WorkItem]) -> None:
        start = time.perf_counter()
        try:
            with self._under_way():
                results = _work(items, self._sign)
        except OutOfDeviceMemory as error:
            self._shrink(items, error)
        except DeviceBroken as error:
            _refuse(items, error)
            self._tell_broken()
        except Retryable as error:
            _refuse(items, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, this thread must outlive it
            self._isolate(items, error)
        else:
            self._went_well(items)
            _deliver(items, results, start=start, seconds=time.perf_counter() - start)

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

    def _went_well(self, items: Sequence[WorkItem]) -> None:
        with self._lock:
            budget = self._budgets[items[0].kind]
            raised = budget.went_well(_tokens(items))
        if raised:
            log.info("token_budget_raised", new_budget=budget.tokens, full_budget=budget.full)

    def _tell_broken(self) -> None:
        """Once, however many lanes find out."""
        with self._lock:
            told, self._broken = self._broken, True
        if not told:
            self._on_broken()

    def _shrink(self, items: Sequence[WorkItem], error: OutOfDeviceMemory) -> None:
        if len(items) == 1:
            # Not even one: another program may hold the memory, so the image waits; it is not at fault.
            _refuse(items, error)
            return
        used = _tokens(items)
        with self._lock:
            budget = self._budgets[items[0].kind]
            budget.shrink(used)
        log.warning("device_out_of_memory", images=len(items), tokens=used, new_budget=budget.tokens)
        try:
            self._queue.put_back(items)
        except DeviceUnavailable as stopping:
            _refuse(items, stopping)

    def _isolate(self, items: Sequence[WorkItem], error: Exception) -> None:
        """An unforeseen error in a forward of many: find whose it is, so that its neighbours are scored."""
        if len(items) == 1:
            _refuse(items, error)
            return
        log.warning("forward_failed", images=len(items), error=f"{type(error).__name__}: {error}")
        for item in items:
            self._run([item])


def _work(items: Sequence[WorkItem], sign: Callable[[], None]) -> Sequence[Result]:
    prepared: list[Any] = [item.prepared for item in items]
    asked: Any = items[0].scorer
    results: Sequence[Result]
    match items[0].kind:
        case "score":
            results = asked.score(prepared)
        case "point":
            results = asked.point(prepared)
        case "find":
            results = asked.find(prepared, heartbeat=sign)
    if len(results) != len(items):
        raise AssertionError(f"{len(results)} answers for {len(items)} images")
    return results


def _deliver(items: Sequence[WorkItem], results: Sequence[Result], *, start: float, seconds: float) -> None:
    share = 1 / len(items)
    longest = max(item.prepared.visual_tokens for item in items)
    for item, result in zip(items, results, strict=True):
        given = Answer(
            result=result,
            waited=start - item.since,
            seconds=share * seconds,
            forwards=share,
            tokens=longest,
            padding=longest - item.prepared.visual_tokens,
        )
        item.answer(given)


def _tokens(items: Sequence[WorkItem]) -> int:
    """Of their forward, padding included."""
    return len(items) * max(item.prepared.visual_tokens for item in items)


def _refuse(items: Sequence[WorkItem], error: Exception) -> None:
    for item in items:
        item.answer(_fault(item, error))


def _fault(item: WorkItem, error: Exception) -> Answer:
    return Answer(result=error, waited=time.perf_counter() - item.since, seconds=0.0)
