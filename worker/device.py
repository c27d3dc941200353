"""The one thread that owns the model. It takes prepared images from all batches and packs them by visual tokens."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from models.types import Prepared, Reading, Scorer
from scanfleet.errors import DeviceUnavailable, Retryable
from worker.budget import TokenBudget
from worker.errors import DeviceBroken, OutOfDeviceMemory
from worker.packing import pack

log = structlog.get_logger()

WAITING_FORWARDS = 2  # forwards' worth of prepared images that may wait: while one runs, the next is ready


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one prepared image."""

    result: Reading | Exception
    waited: float  # seconds from submission to the start of its forward
    seconds: float  # its share of the forward


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ticket:
    owner: object
    scorer: Scorer
    prepared: Prepared
    answer: Callable[[Answer], None]
    since: float


class Device:
    """`submit` from any thread; the answer comes by callback from the device thread.

    token_budget: visual tokens of one forward, padding included. There are fewer after the device ran out of memory.
    """

    def __init__(self, *, token_budget: int, on_broken: Callable[[], None] = lambda: None) -> None:
        self._budget = TokenBudget(token_budget)
        self._on_broken = on_broken
        self._capacity = WAITING_FORWARDS * token_budget
        self._tickets: deque[_Ticket] = deque()
        self._tokens = 0  # of the waiting tickets
        self._open = True
        self._n_forwards = 0
        self._forward: int | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def token_budget(self) -> int:
        """Of the next forward."""
        return self._budget.tokens

    @property
    def forward(self) -> int | None:
        """The number of the forward under way; None while the device has nothing to do."""
        return self._forward

    def stop(self, *, wait_seconds: float | None = None) -> None:
        """End after the forward under way; what still waits is answered with DeviceUnavailable.

        wait_seconds: how long to wait for that forward; None: however long it takes.
        """
        with self._changed:
            self._open = False
            waiting = self._clear(lambda _: True)
        for ticket in waiting:
            ticket.answer(_fault(ticket, DeviceUnavailable("the worker is stopping")))
        self._thread.join(wait_seconds)

    def submit(self, *, owner: object, scorer: Scorer, prepared: Prepared, answer: Callable[[Answer], None]) -> None:
        """Queue one image; blocks while enough of them wait already. Raises DeviceUnavailable once stopped."""
        ticket = _Ticket(owner=owner, scorer=scorer, prepared=prepared, answer=answer, since=time.perf_counter())
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._tokens < self._capacity)
            if not self._open:
                raise DeviceUnavailable("the worker is stopping")
            self._tickets.append(ticket)
            self._tokens += prepared.visual_tokens
            self._changed.notify_all()

    def forget(self, owner: object) -> None:
        """Drop what waits for an owner that no longer wants it; it gets no answer."""
        with self._changed:
            self._clear(lambda ticket: ticket.owner is owner)

    def _clear(self, unwanted: Callable[[_Ticket], bool]) -> list[_Ticket]:
        dropped = [ticket for ticket in self._tickets if unwanted(ticket)]
        self._tickets = deque(ticket for ticket in self._tickets if not unwanted(ticket))
        self._tokens = sum(ticket.prepared.visual_tokens for ticket in self._tickets)
        self._changed.notify_all()
        return dropped

    def _loop(self) -> None:
        while tickets := self._take():
            self._run(tickets)

    def _take(self) -> list[_Ticket]:
        """The next forward: tickets of the scorer that has waited longest. Empty when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or bool(self._tickets))
            if not self._open:
                return []
            scorer = self._tickets[0].scorer
            same = [ticket for ticket in self._tickets if ticket.scorer is scorer]
            chosen = pack([ticket.prepared.visual_tokens for ticket in same], budget=self.token_budget)
            taken = [same[at] for at in chosen]
            gone = set(map(id, taken))
            self._clear(lambda ticket: id(ticket) in gone)
            return taken

    def _run(self, tickets: Sequence[_Ticket]) -> None:
        start = time.perf_counter()
        try:
            readings = self._score(tickets)
        except OutOfDeviceMemory as error:
            self._shrink(tickets, error)
        except DeviceBroken as error:
            _refuse(tickets, error)
            self._on_broken()
        except Retryable as error:
            _refuse(tickets, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, this thread must outlive it
            self._isolate(tickets, error)
        else:
            if self._budget.went_well(_tokens(tickets)):
                log.info("token_budget_raised", new_budget=self.token_budget, full_budget=self._budget.full)
            share = (time.perf_counter() - start) / len(tickets)
            for ticket, reading in zip(tickets, readings, strict=True):
                ticket.answer(Answer(result=reading, waited=start - ticket.since, seconds=share))

    def _score(self, tickets: Sequence[_Ticket]) -> list[Reading]:
        prepared: list[Any] = [ticket.prepared for ticket in tickets]
        self._n_forwards += 1
        self._forward = self._n_forwards
        try:
            readings = tickets[0].scorer.score(prepared)
        finally:
            self._forward = None
        if len(readings) != len(tickets):
            raise AssertionError(f"the scorer gave {len(readings)} readings for {len(tickets)} images")
        return readings

    def _shrink(self, tickets: Sequence[_Ticket], error: OutOfDeviceMemory) -> None:
        if len(tickets) == 1:
            # Not even one: another program may hold the memory, so the image waits; it is not at fault.
            _refuse(tickets, error)
            return
        used = _tokens(tickets)
        self._budget.shrink(used)
        log.warning("device_out_of_memory", images=len(tickets), tokens=used, new_budget=self.token_budget)
        with self._changed:
            self._tickets.extendleft(reversed(tickets))
            self._tokens += sum(ticket.prepared.visual_tokens for ticket in tickets)

    def _isolate(self, tickets: Sequence[_Ticket], error: Exception) -> None:
        """An unforeseen error in a forward of many: find whose it is, so that its neighbours are scored."""
        if len(tickets) == 1:
            _refuse(tickets, error)
            return
        log.warning("forward_failed", images=len(tickets), error=f"{type(error).__name__}: {error}")
        for ticket in tickets:
            self._run([ticket])


def _tokens(tickets: Sequence[_Ticket]) -> int:
    """Of their forward, padding included."""
    return len(tickets) * max(ticket.prepared.visual_tokens for ticket in tickets)


def _refuse(tickets: Sequence[_Ticket], error: Exception) -> None:
    for ticket in tickets:
        ticket.answer(_fault(ticket, error))


def _fault(ticket: _Ticket, error: Exception) -> Answer:
    return Answer(result=error, waited=time.perf_counter() - ticket.since, seconds=0.0)
