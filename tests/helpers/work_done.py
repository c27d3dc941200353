"""Counts lines of Python that a call executes: it shows how work grows, on a busy machine too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def n_lines(call: Callable[[], object]) -> int:
    """Return how many lines run during the call in this thread. Lines within C functions do not count."""
    n = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal n
        n += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return n
