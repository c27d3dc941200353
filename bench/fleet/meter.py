"""Processor time and memory of processes with all their children, measured from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

EVERY_SECONDS = 0.5


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its living descendants."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Return user plus system time of the process itself, and of its children, ended ones included."""
    own = below = 0.0
    for process in family(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            below += times.children_user + times.children_system
            if process.pid == pid:
                own = times.user + times.system
            else:
                below += times.user + times.system
    return own, below


def rss_bytes(pid: int) -> int:
    """Return the resident memory; pages that processes share count in each."""
    total = 0
    for process in family(pid):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


@contextmanager
def cpu_used(pids: Mapping[str, int]) -> Iterator[dict[str, float]]:
    """Fill in the processor seconds of each process by name, and of its children, when the block ends."""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    used: dict[str, float] = {}
    yield used
    for name, pid in pids.items():
        own, below = cpu_seconds(pid)
        used |= {name: own - before[name][0], f"{name} children": below - before[name][1]}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample of memory; progress: images that had ended by then."""

    progress: int
    rss: int  # bytes


@contextmanager
def rss_watched(pid: int, progress: Callable[[], int]) -> Iterator[list[Sample]]:
    """Fill in a sample every half second while the block runs."""
    samples: list[Sample] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_SECONDS):
            samples.append(Sample(progress=progress(), rss=rss_bytes(pid)))

    thread = threading.Thread(target=watch, name="rss")
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
