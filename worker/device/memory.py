"""How much memory a forward takes, and how much is left for it: of the card, or of the machine where it computes."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Protocol

KIB = 1024
_PROC = Path("/proc/self")
_CGROUP = Path("/sys/fs/cgroup")  # version 2; a container sees its own limit here


class DeviceMemory(Protocol):
    """`begin`, a forward, `taken`. None: cannot be told here."""

    def begin(self) -> None: ...

    def taken(self) -> int | None:
        """Bytes that were needed at most since `begin`, beyond what was held then."""
        ...

    def free(self) -> int | None:
        """Bytes that can still be had."""
        ...


def memory_of(device: str) -> DeviceMemory:
    """device: as torch writes it."""
    if device.startswith("cuda"):
        return CudaMemory(device)
    return HostMemory() if device == "cpu" and sys.platform == "linux" else UnknownMemory()


class UnknownMemory:
    """Nothing is known of this device's memory."""

    def begin(self) -> None:
        """Nothing to note."""

    def taken(self) -> int | None:
        return None

    def free(self) -> int | None:
        return None


class CudaMemory:
    """Of a CUDA device, by torch's own book-keeping."""

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
    """Of this process on Linux: its peak can be set back (proc(5), clear_refs), so that each forward has its own."""

    def __init__(self) -> None:
        self._held = 0

    def begin(self) -> None:
        with contextlib.suppress(OSError):  # a kernel or container that does not let us: peaks add up then
            (_PROC / "clear_refs").write_text("5")
        self._held = _status("VmRSS")

    def taken(self) -> int | None:
        return max(0, _status("VmHWM") - self._held)

    def free(self) -> int | None:
        available = _field(Path("/proc/meminfo"), "MemAvailable")
        within = _cgroup_left()
        return available if within is None else min(available, within)


def _status(name: str) -> int:
    return _field(_PROC / "status", name)


def _field(file: Path, name: str) -> int:
    """Bytes, of a line such as `VmRSS:  123 kB`; 0 where there is none."""
    for line in file.read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * KIB
    return 0


def _cgroup_left() -> int | None:
    """What the container's limit leaves; None without one."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
