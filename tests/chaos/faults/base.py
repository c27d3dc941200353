"""What a fault has at hand, and what it returns. It begins now and may have to be ended some seconds later."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from celery import Celery

from tests.chaos.expected import Change
from tests.chaos.fleet.services import RunServices
from tests.chaos.fleet.supervisor import Supervisor
from tests.chaos.producers import Producers
from tests.chaos.recovery import Recovery


@dataclass(frozen=True, kw_only=True)
class Ground:
    """changes: what happened to objects of the bucket, by key. undone: settled images that each restore took back."""

    services: RunServices
    fleet: Supervisor
    app: Celery
    producers: Producers
    recovery: Recovery
    rng: random.Random
    changes: dict[str, Change] = field(default_factory=dict)
    undone: list[int] = field(default_factory=list)

    def need(self, *services: str) -> None:
        """Raises NotNow if one of them is down, or in the hands of another fault."""
        if not self.services.down.isdisjoint(services):
            raise NotNow

    def take(self, *services: str) -> None:
        """Keep other faults from these services until they are given back. Raises NotNow."""
        self.need(*services)
        self.services.down.update(services)

    def give_back(self, *services: str) -> None:
        self.services.down.difference_update(services)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A fault under way. `end` undoes it; call it after `seconds`, or later, once it has had its `effect`."""

    seconds: float = 0.0
    effect: Callable[[], bool] = lambda: True
    end: Callable[[], None] = lambda: None


class NotNow(Exception):
    """This fault is impossible at the moment: there is no target."""


Fault = Callable[[Ground], Begun]
