"""The C library's allocator, told to keep what a forward frees for the next one.

glibc gives blocks of megabytes back to the kernel when they are freed and faults every page in again when the next
forward asks for as much: on a CPU that takes up to a third of a forward's time. Without glibc nothing happens here.
"""

from __future__ import annotations

import ctypes
import sys

# malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_FROM_HEAP = 32 << 20  # bytes; glibc takes no more for this setting
KEPT_FREE = 512 << 20  # bytes at the top of the heap that are kept
GROWTH = 64 << 20  # bytes the heap grows by at least


def keep_freed_memory() -> bool:
    """For the whole process; returns whether the allocator took the settings."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_FROM_HEAP), (M_TRIM_THRESHOLD, KEPT_FREE), (M_TOP_PAD, GROWTH))
    return all(mallopt(name, value) == 1 for name, value in settings)
