"""The prepared images of all batches that wait for the device. The queue is bounded: `put` blocks when it is full."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scanfleet.errors import DeviceUnavailable
from scanfleet.models.types import (
    CropReader,
    Explainer,
    Finder,
    FoundBoxes,
    Pointed,
    Prepared,
    Reading,
    Scorer,
    Written,
)
from scanfleet.worker.device.packing import pack

STAY_SECONDS = 2.0  # for which images wait while the last scorer has others: a change of adapter takes time
FORWARDS_BEFORE_FINDING = 8  # of scorers that may precede a waiting finder or explainer

Kind = Literal["score", "point", "find", "explain"]
Result = Reading | Pointed | FoundBoxes | Written


@dataclass(frozen=True, kw_only=True)
class WorkResult:
    """The result of one prepared image, and its share of the forward."""

    result: Result | Exception
    waited: float  # seconds from submission to the start of its forward
    seconds: float  # its share of the forward
    forwards: float = 0.0  # the same share as a part of one forward; 0: no forward ended
    tokens: int = 0  # visual, of its row in the forward
    padding: int = 0  # of these, tokens of padding


OnResult = Callable[[WorkResult], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkItem:
    """One prepared image of `owner`. `on_result` is called once, in a device thread.

    scorer: the Scorer, the CropReader that points, or the Finder or Explainer that answers, by `kind`. paired: the
    scorer with which a crop reader shares its adapter; None for the other kinds.
    """

    owner: object
    scorer: Scorer | CropReader | Finder | Explainer
    prepared: Prepared
    on_result: OnResult
    since: float  # time.perf_counter()
    kind: Kind = "score"
    paired: Scorer | None = None

    @property
    def is_generating(self) -> bool:
        """True if its forward is long, so that those of scorers go first."""
        return self.kind in ("find", "explain")

    @property
    def adapter_user(self) -> object:
        """Work items with the same one need no change of adapter between them."""
        return self.scorer if self.paired is None else self.paired


class DeviceQueue:
    """Work items in the order of their arrival.

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
        self._last: object = None  # the adapter user of the last forward
        self._capacity = capacity
        self._least = least
        self._one_by_one = one_by_one
        self._items: deque[WorkItem] = deque()
        self._weight = 0  # of the work items
        self._passed = 0  # forwards taken since finders or explainers began to wait
        self._open = True
        self._changed = threading.Condition()

    def put(self, item: WorkItem) -> None:
        """Add a work item; blocks while the queue is full. Raises DeviceUnavailable once closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._has_space())
            if not self._open:
                raise DeviceUnavailable("the worker is stopping")
            self._items.append(item)
            self._weight += self._weigh(item)
            self._changed.notify_all()

    def _has_space(self) -> bool:
        return self._weight < self._capacity or len(self._items) < self._least

    def put_back(self, items: Sequence[WorkItem]) -> None:
        """Add to the front, in their order, even if the queue is full. Raises DeviceUnavailable once closed."""
        with self._changed:
            closed = not self._open
            if not closed:
                self._items.extendleft(reversed(items))
                self._weight += sum(map(self._weigh, items))
                self._changed.notify_all()
        if closed:
            raise DeviceUnavailable("the worker is stopping")

    def take(self, budget: Callable[[Kind], int]) -> list[WorkItem]:
        """Return the next forward, of one scorer, within the tokens that `budget` has for its kind; [] when closed.

        The scorer of the last forward continues while it has images, because another one may need another adapter. An
        image that has waited STAY_SECONDS comes first. A crop reader counts as its scorer. Finders and explainers come
        when no scorer waits, or after FORWARDS_BEFORE_FINDING: images to score do not wait for whole generations, and
        flagged images collect for a forward of many.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._open or bool(self._items))
            if not self._open:
                return []
            first = self._choose()
            self._last = first.adapter_user
            if self._one_by_one:
                taken = [first]
            else:
                same = [item for item in self._items if item.scorer is first.scorer]
                chosen = pack([item.prepared.visual_tokens for item in same], budget=budget(first.kind))
                taken = [same[at] for at in chosen]
            taken_ids = set(map(id, taken))
            self._drop(lambda item: id(item) in taken_ids)
            return taken

    def _choose(self) -> WorkItem:
        """Return the work item whose scorer is next."""
        generating = next((item for item in self._items if item.is_generating), None)
        scoring = self._next_to_score()
        if generating is None or (scoring is not None and self._passed < FORWARDS_BEFORE_FINDING):
            self._passed += generating is not None
            assert scoring is not None
            return scoring
        self._passed = 0
        return generating

    def _next_to_score(self) -> WorkItem | None:
        waiting = [item for item in self._items if not item.is_generating]
        if not waiting or self._clock() - waiting[0].since >= STAY_SECONDS:
            return waiting[0] if waiting else None
        return next((item for item in waiting if item.adapter_user is self._last), waiting[0])

    def drop(self, owner: object) -> None:
        """Remove the work items of an owner; their `on_result` is not called."""
        with self._changed:
            self._drop(lambda item: item.owner is owner)

    def close(self) -> list[WorkItem]:
        """Close the queue for `put` and `take`, and return the work items that still waited."""
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
