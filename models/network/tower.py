"""Run the vision tower once for several forwards over the same images.

Inside `shared_tower` the first forward keeps what each part of the tower returns, and the later ones get it back
without running the part again. The parts are those that a family names as its vision; nothing in them may depend on
the question or on the active adapter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scanfleet.models.families.family import Family


@dataclass(kw_only=True, eq=False)
class _Outputs:
    """What the calls of each part returned, in their order, and how many of them this forward has asked for."""

    kept: dict[str, list[Any]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)


class _Active(threading.local):
    """The outputs of each thread: two streams run forwards of one network at the same time."""

    outputs: _Outputs | None = None


_active = _Active()


@contextmanager
def shared_tower() -> Iterator[Callable[[], None]]:
    """Share the tower's outputs among this thread's forwards inside the block, which must read the same images.

    Yields:
        A function to call before each forward.
    """
    assert _active.outputs is None
    outputs = _active.outputs = _Outputs()
    try:
        yield outputs.asked.clear
    finally:
        _active.outputs = None


def keep_outputs(network: Any, family: Family) -> None:
    """Let the vision parts of a loaded network take part in `shared_tower`; alone this changes no number."""
    for name, part in network.named_modules():
        if name in (family.tower or family.vision):
            part.forward = partial(_run, name, part.forward)


def _run(name: str, forward: Callable[..., Any], *args: Any, **inputs: Any) -> Any:
    outputs = _active.outputs
    if outputs is None:
        return forward(*args, **inputs)
    call = outputs.asked.get(name, 0)
    outputs.asked[name] = call + 1
    kept = outputs.kept.setdefault(name, [])
    if call == len(kept):
        kept.append(forward(*args, **inputs))
    return copy(kept[call])  # the caller may put other values into the fields
