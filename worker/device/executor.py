"""The threads that own the model: one for a local device, or one for each concurrent request to an endpoint.

They take the prepared images of all batches, packed by visual tokens.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import structlog

from scanfleet.errors import DeviceUnavailable, Retryable
from scanfleet.models.types import CropReader, Explainer, Finder, Prepared, Reading, Scorer
from scanfleet.worker.device.queue import DeviceQueue, Kind, OnResult, Result, WorkItem, WorkResult
from scanfleet.worker.device.token_budget import TokenBudget
from scanfleet.worker.errors import DeviceBroken, OutOfDeviceMemory
from scanfleet.worker.runtime.utilisation import Occupancy

log = structlog.get_logger()

WAITING_FORWARDS = 2  # for each stream, forwards' worth of prepared images may wait: while one runs, the next is ready


class Device:
    """Call `submit` from any thread; a device thread calls back with the result.

    token_budget: visual tokens of one forward, padding included; fewer after the device has run out of memory.
    streams: forwards that may run at once, each in its own thread. one_by_one: each image is a forward of its own.
    """

    def __init__(
        self,
        *,
        token_budget: int,
        streams: int = 1,
        one_by_one: bool = False,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = threading.Lock()  # for the budgets, the forwards and `_broken`
        # Finding keeps keys and values, and pointing may keep gradients: they may run out of memory sooner.
        self._budgets: dict[Kind, TokenBudget] = {kind: TokenBudget(token_budget) for kind in get_args(Kind)}
        self._on_broken = on_broken
        self._broken = False
        forwards = WAITING_FORWARDS * streams
        capacity = forwards * (1 if one_by_one else token_budget)
        self._queue = DeviceQueue(capacity=capacity, one_by_one=one_by_one, least=forwards)
        self._numbers = itertools.count(1)
        self._forwards: set[int] = set()  # under way
        self._stopped = threading.Event()
        self._local = threading.local()  # .number of the forward in this thread
        self.occupancy = Occupancy(streams=streams)
        self._threads = [threading.Thread(target=self._loop, name=f"device-{n}", daemon=True) for n in range(streams)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def token_budget(self) -> int:
        """The visual tokens of the next forward."""
        return self._budgets["score"].tokens

    @property
    def forward(self) -> int | None:
        """The number of the oldest forward under way; None while the device is idle.

        A hung forward becomes and stays the oldest, whatever the other streams do.
        """
        with self._lock:
            return min(self._forwards, default=None)

    def stop(self, *, wait_seconds: float | None = None) -> None:
        """End after the forwards under way. Work items that still wait get DeviceUnavailable.

        wait_seconds: for all those forwards together; None: until they have ended.
        """
        self._stopped.set()
        for item in self._queue.close():
            item.on_result(_error_result(item, DeviceUnavailable("the worker is stopping")))
        until = None if wait_seconds is None else time.monotonic() + wait_seconds
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))

    def submit(self, *, owner: object, scorer: Scorer, prepared: Prepared, on_result: OnResult) -> None:
        """Queue one image; blocks while the queue is full. Raises DeviceUnavailable once stopped."""
        since = time.perf_counter()
        self._queue.put(WorkItem(owner=owner, scorer=scorer, prepared=prepared, on_result=on_result, since=since))

    def submit_finding(self, *, owner: object, finder: Finder, prepared: Prepared, on_result: OnResult) -> None:
        """Queue one image to find boxes in, after those to score; as `submit` otherwise."""
        since, job = time.perf_counter(), finder.job(prepared)
        self._queue.put(
            WorkItem(owner=owner, scorer=finder, prepared=job, on_result=on_result, since=since, kind="find")
        )

    def submit_explaining(
        self, *, owner: object, explainer: Explainer, prepared: Prepared, reading: Reading, on_result: OnResult
    ) -> None:
        """Queue one flagged image to explain, after those to score; as `submit` otherwise."""
        since, job = time.perf_counter(), explainer.job(prepared, reading)
        self._queue.put(
            WorkItem(owner=owner, scorer=explainer, prepared=job, on_result=on_result, since=since, kind="explain")
        )

    def submit_pointing(
        self, *, owner: object, crop_reader: CropReader, scorer: Scorer, views: Prepared, on_result: OnResult
    ) -> None:
        """Queue the views that point to a crop, among the images of its scorer; as `submit` otherwise."""
        item = WorkItem(
            owner=owner,
            scorer=crop_reader,
            prepared=views,
            on_result=on_result,
            since=time.perf_counter(),
            kind="point",
            paired=scorer,
        )
        self._queue.put(item)

    def forget(self, owner: object) -> None:
        """Drop the waiting work items of an owner; their `on_result` is not called."""
        self._queue.drop(owner)

    # in the device threads

    def _loop(self) -> None:
        while items := self._queue.take(lambda kind: self._budgets[kind].tokens):
            self._run(items)

    def _run(self, items: Sequence[WorkItem]) -> None:
        start = time.perf_counter()
        try:
            with self._under_way():
                results = _work(items, self._renew_number)
        except OutOfDeviceMemory as error:
            self._shrink(items, error)
        except DeviceBroken as error:
            _fail(items, error)
            self._report_broken()
        except Retryable as error:
            _fail(items, error)
        except Exception as error:  # noqa: BLE001 - this thread must survive every error
            self._isolate(items, error)
        else:
            self._count_success(items)
            _deliver(items, results, start=start, seconds=time.perf_counter() - start)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """Number the forward that runs inside."""
        with self._lock:
            number = self._local.number = next(self._numbers)
            self._forwards.add(number)
        try:
            with self.occupancy.forward():
                yield
        finally:
            with self._lock:
                self._forwards.discard(self._local.number)

    def _renew_number(self) -> None:
        """Give a long forward that makes progress a new number, so that it does not count as hung.

        Raises DeviceUnavailable once stopped, so that the worker need not wait for its end.
        """
        if self._stopped.is_set():
            raise DeviceUnavailable("the worker is stopping")
        with self._lock:
            self._forwards.discard(self._local.number)
            self._local.number = next(self._numbers)
            self._forwards.add(self._local.number)

    def _count_success(self, items: Sequence[WorkItem]) -> None:
        with self._lock:
            budget = self._budgets[items[0].kind]
            raised = budget.count_success(_tokens(items))
        if raised:
            log.info("token_budget_raised", new_budget=budget.tokens, full_budget=budget.full)

    def _report_broken(self) -> None:
        """Call `on_broken` once, even if several streams find the device broken."""
        with self._lock:
            reported, self._broken = self._broken, True
        if not reported:
            self._on_broken()

    def _shrink(self, items: Sequence[WorkItem], error: OutOfDeviceMemory) -> None:
        if len(items) == 1:
            # Another program may hold the memory, so the image waits: this is not counted against it.
            _fail(items, error)
            return
        used = _tokens(items)
        with self._lock:
            budget = self._budgets[items[0].kind]
            budget.shrink(used)
        log.warning("device_out_of_memory", images=len(items), tokens=used, new_budget=budget.tokens)
        try:
            self._queue.put_back(items)
        except DeviceUnavailable as stopping:
            _fail(items, stopping)

    def _isolate(self, items: Sequence[WorkItem], error: Exception) -> None:
        """Run the images of a failed forward one by one, so that only the image that causes the error gets it."""
        if len(items) == 1:
            _fail(items, error)
            return
        log.warning("forward_failed", images=len(items), error=f"{type(error).__name__}: {error}")
        for item in items:
            self._run([item])


def _work(items: Sequence[WorkItem], renew: Callable[[], None]) -> Sequence[Result]:
    prepared: list[Any] = [item.prepared for item in items]
    answering: Any = items[0].scorer
    results: Sequence[Result]
    match items[0].kind:
        case "score":
            results = answering.score(prepared)
        case "point":
            results = answering.point(prepared)
        case "find":
            results = answering.find(prepared, heartbeat=renew)
        case "explain":
            results = answering.explain(prepared, heartbeat=renew)
    if len(results) != len(items):
        raise AssertionError(f"{len(results)} answers for {len(items)} images")
    return results


def _deliver(items: Sequence[WorkItem], results: Sequence[Result], *, start: float, seconds: float) -> None:
    share = 1 / len(items)
    longest = max(item.prepared.visual_tokens for item in items)
    for item, result in zip(items, results, strict=True):
        work = WorkResult(
            result=result,
            waited=start - item.since,
            seconds=share * seconds,
            forwards=share,
            tokens=longest,
            padding=longest - item.prepared.visual_tokens,
        )
        item.on_result(work)


def _tokens(items: Sequence[WorkItem]) -> int:
    """Return the visual tokens of their forward, padding included."""
    return len(items) * max(item.prepared.visual_tokens for item in items)


def _fail(items: Sequence[WorkItem], error: Exception) -> None:
    for item in items:
        item.on_result(_error_result(item, error))


def _error_result(item: WorkItem, error: Exception) -> WorkResult:
    return WorkResult(result=error, waited=time.perf_counter() - item.since, seconds=0.0)
