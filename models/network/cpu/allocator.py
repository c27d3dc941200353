"""Make the C library's allocator keep freed memory for the next forward.

glibc returns freed blocks of several megabytes to the kernel and faults every page in again at the next forward. On a
CPU that takes up to a third of a forward's time. Without glibc this module does nothing.
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
    """Configure the allocator of the whole process.

    Returns:
        True if the allocator accepted every setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_FROM_HEAP), (M_TRIM_THRESHOLD, KEPT_FREE), (M_TOP_PAD, GROWTH))
    return all(mallopt(name, value) == 1 for name, value in settings)
