"""The prepared images that wait for the device, from all batches. Bounded: who brings one more is held up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from models.types import CropReader, Finder, FoundBoxes, Pointed, Prepared, Reading, Scorer
from scanfleet.errors import DeviceUnavailable
from worker.device.packing import pack

STAY_SECONDS = 2.0  # that another scorer's images may wait while the last one has some: a change of adapter takes time
FORWARDS_BEFORE_FINDING = 8  # of scorers that go before a finder whose images have waited all that time

Kind = Literal["score", "point", "find"]
Result = Reading | Pointed | FoundBoxes


@dataclass(frozen=True, kw_only=True)
class WorkResult:
    """What became of one prepared image."""

    result: Result | Exception
    waited: float  # seconds from submission to the start of its forward
    seconds: float  # its share of the forward
    forwards: float = 0.0  # the same share as a part of one forward; 0 where none came to its end
    tokens: int = 0  # visual, of its row in the forward
    padding: int = 0  # of these, not its own


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkItem:
    """One prepared image of `owner`; `answer` is called once, in a device thread.

    scorer: who answers, a Scorer, a CropReader that points, or a Finder, by `kind`. beside: the scorer that a refiner
    goes with, under the same adapter; None: nobody.
    """

    owner: object
    scorer: Scorer | CropReader | Finder
    prepared: Prepared
    answer: Callable[[WorkResult], None]
    since: float  # time.perf_counter()
    kind: Kind = "score"
    beside: Scorer | None = None

    @property
    def late(self) -> bool:
        """Whether its long forward lets those of scorers go first."""
        return self.kind == "find"

    @property
    def leader(self) -> object:
        """Whoever has the same one needs no change of adapter."""
        return self.scorer if self.beside is None else self.beside


class DeviceQueue:
    """Tickets in the order of their arrival.

    capacity: visual tokens that may wait; images, where each image is a forward of its own (`one_by_one`).
    least: images that may wait in any case, however large each of them is.
    """

    def __init__(
        self,
        *,
        capacity: int,
        one_by_one: bool,
        least: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._last: object = None  # the leader of the last forward
        self._capacity = capacity
        self._least = least
        self._one_by_one = one_by_one
        self._items: deque[WorkItem] = deque()
        self._weight = 0  # of the tickets
        self._passed = 0  # forwards taken since late tickets began to wait
        self._open = True
        self._changed = threading.Condition()

    def put(self, item: WorkItem) -> None:
        """Blocks while enough of them wait already. Raises DeviceUnavailable once closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._has_room())
            if not self._open:
                raise DeviceUnavailable("the worker is stopping")
            self._items.append(item)
            self._weight += self._weigh(item)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._weight < self._capacity or len(self._items) < self._least

    def put_back(self, items: Sequence[WorkItem]) -> None:
        """To the front, in their order, whatever waits already. Raises DeviceUnavailable once closed."""
        with self._changed:
            closed = not self._open
            if not closed:
                self._items.extendleft(reversed(items))
                self._weight += sum(map(self._weigh, items))
                self._changed.notify_all()
        if closed:
            raise DeviceUnavailable("the worker is stopping")

    def take(self, budget: Callable[[Kind], int]) -> list[WorkItem]:
        """The next forward, of one scorer, within the tokens that `budget` has for its kind. Empty when closed.

        The scorer of the last forward goes on while it has images, because another one may bring another adapter; but
        whoever has waited STAY_SECONDS comes first. A refiner stands in line with its scorer. Finders come when no
        scorer waits, or after FORWARDS_BEFORE_FINDING: images to score do not stand behind whole generations, and
        those to find boxes in gather for a forward of many.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._open or bool(self._items))
            if not self._open:
                return []
            first = self._choose()
            self._last = first.leader
            if self._one_by_one:
                taken = [first]
            else:
                same = [item for item in self._items if item.scorer is first.scorer]
                chosen = pack([item.prepared.visual_tokens for item in same], budget=budget(first.kind))
                taken = [same[at] for at in chosen]
            gone = set(map(id, taken))
            self._drop(lambda item: id(item) in gone)
            return taken

    def _choose(self) -> WorkItem:
        """The ticket whose scorer is next."""
        late = next((item for item in self._items if item.late), None)
        soon = self._next_to_score()
        if late is None or (soon is not None and self._passed < FORWARDS_BEFORE_FINDING):
            self._passed += late is not None
            assert soon is not None
            return soon
        self._passed = 0
        return late

    def _next_to_score(self) -> WorkItem | None:
        waiting = [item for item in self._items if not item.late]
        if not waiting or self._clock() - waiting[0].since >= STAY_SECONDS:
            return waiting[0] if waiting else None
        return next((item for item in waiting if item.leader is self._last), waiting[0])

    def drop(self, owner: object) -> None:
        """Forget what an owner no longer wants; it gets no answer."""
        with self._changed:
            self._drop(lambda item: item.owner is owner)

    def close(self) -> list[WorkItem]:
        """Nothing is put or taken from now on. Returns what still waited."""
        with self._changed:
            self._open = False
            return self._drop(lambda _: True)

    def _drop(self, unwanted: Callable[[WorkItem], bool]) -> list[WorkItem]:
        dropped = [item for item in self._items if unwanted(item)]
        self._items = deque(item for item in self._items if not unwanted(item))
        self._weight = sum(map(self._weigh, self._items))
        self._changed.notify_all()
        return dropped

    def _weigh(self, item: WorkItem) -> int:
        return 1 if self._one_by_one else item.prepared.visual_tokens
