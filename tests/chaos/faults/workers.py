"""Faults of worker processes."""

from __future__ import annotations

import signal

from tests.chaos.faults.base import Begun, Fault, Ground, NotNow
from tests.chaos.fleet.services import LEASE_SECONDS
from tests.chaos.fleet.supervisor import Slot


def kill9(ground: Ground) -> Begun:
    slot = _some_worker(ground)
    pid = slot.pid
    slot.signal(signal.SIGKILL)
    if pid is not None:
        ground.recovery.killed(pid)
    return Begun()


def freeze(ground: Ground) -> Begun:
    slot = _some_worker(ground)
    frozen = slot.process
    slot.signal(signal.SIGSTOP)
    slot.frozen = True
    short, long = (0.3, 2.0), (1.2 * LEASE_SECONDS, 2.5 * LEASE_SECONDS)

    def thaw() -> None:
        if frozen is slot.process:
            slot.signal(signal.SIGCONT)
            slot.frozen = False

    return Begun(seconds=ground.rng.uniform(*ground.rng.choice((short, long))), end=thaw)


def sigterm(ground: Ground) -> Begun:
    slot = _some_worker(ground)
    slot.signal(signal.SIGTERM)
    if ground.rng.random() < 0.5:
        return Begun()
    return Begun(seconds=0.3, end=lambda: slot.signal(signal.SIGTERM))  # the second one: hand back at once


def _some_worker(ground: Ground) -> Slot:
    alive = [slot for slot in ground.fleet.slots if slot.pid is not None and not slot.frozen]
    if not alive:
        raise NotNow
    return ground.rng.choice(alive)


FAULTS: dict[str, Fault] = {"kill9": kill9, "freeze": freeze, "sigterm": sigterm}
