"""How much memory a forward takes, and how much is free for it: on the card, or on the machine that computes it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Protocol

import psutil

KIB = 1024
_CGROUP = Path("/sys/fs/cgroup")  # version 2; a container sees its own limit here


class DeviceMemory(Protocol):
    """Call `begin`, run a forward, then call `taken`. None: unknown on this device."""

    def begin(self) -> None: ...

    def taken(self) -> int | None:
        """Return the peak in bytes since `begin`, beyond what was held then."""
        ...

    def free(self) -> int | None:
        """Return the bytes that can still be allocated."""
        ...


def memory_of(device: str) -> DeviceMemory:
    """Return the memory of a device, which is named as torch names it."""
    if device.startswith("cuda"):
        return CudaMemory(device)
    return HostMemory() if device == "cpu" and sys.platform == "linux" else UnknownMemory()


class UnknownMemory:
    """A device whose memory cannot be read."""

    def begin(self) -> None:
        pass

    def taken(self) -> int | None:
        return None

    def free(self) -> int | None:
        return None


class CudaMemory:
    """The memory of a CUDA device, from torch's own statistics."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._held = 0

    def begin(self) -> None:
        import torch

        torch.cuda.reset_peak_memory_stats(self._device)
        self._held = torch.cuda.memory_allocated(self._device)

    def taken(self) -> int | None:
        import torch

        return torch.cuda.max_memory_allocated(self._device) - self._held

    def free(self) -> int | None:
        import torch

        free, _ = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return free + cached


class HostMemory:
    """The memory of this machine under Linux, for forwards that the CPU computes."""

    def __init__(self) -> None:
        self._held = 0
        self._peak = 0

    def begin(self) -> None:
        self._held = psutil.Process().memory_info().rss
        self._peak = _peak()

    def taken(self) -> int | None:
        """None: the forward set no new peak of this process, so it needed no more than has fitted before."""
        peak = _peak()
        return peak - self._held if peak > self._peak else None

    def free(self) -> int | None:
        return max(0, min(psutil.virtual_memory().available, _container_left()))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def _container_left() -> int:
    """Return the rest of a container's limit: psutil reports the memory of the whole machine in there."""
    try:
        return int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup of version 2, or "max": no limit
        return sys.maxsize
