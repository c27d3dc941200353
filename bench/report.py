"""The result of a benchmark, and how it is printed."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REPEATS = 5


class Skipped(Exception):
    """A benchmark that this machine cannot run, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Named figures of one benchmark; the last line of `--json` holds exactly these."""

    name: str
    figures: dict[str, Any]  # a number, or numbers by name
    notes: tuple[str, ...] = ()

    def show(self, *, as_json: bool) -> None:
        print(f"{self.name}  ({platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()})")
        width = max(len(figure) for figure in self.figures)
        for figure, value in self.figures.items():
            print(f"  {figure:<{width}}  {_words(value)}")
        for note in self.notes:
            print(f"  {note}")
        if as_json:
            print(json.dumps(self.figures))


def _words(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_words, value))}]"
    if isinstance(value, dict):
        return ", ".join(
            f"{name}: ({_words(v)})" if isinstance(v, dict) else f"{name} {_words(v)}" for name, v in value.items()
        )
    return f"{value:,.4g}"


def seconds(work: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def median_seconds_side_by_side(
    *works: Callable[[], object], repeats: int = REPEATS, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the median of each, measured in turn (A B A B ...), so that a drift of the machine affects all alike.

    clock: `time.process_time` counts the processor's time, whatever else runs on the machine.
    """
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for number, work in enumerate(works):
            taken[number].append(seconds(work, clock=clock))
    return [statistics.median(times) for times in taken]
