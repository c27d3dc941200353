"""Memory that a worker shares with one decoder child, for the pixels of its answers. On Linux alone.

Its size is sealed: a child that an image has taken over cannot make it smaller under the worker's feet.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import NamedTuple

REGION_BYTES = 8 << 20  # eight pictures of 448 x 448 pixels, and some room


class Region(NamedTuple):
    descriptor: int  # for the child; the caller closes it
    pixels: mmap.mmap


def make() -> Region | None:
    """Return fresh memory; None where there is no such thing: all pixels go through the pipe then.

    Raises OSError.
    """
    if sys.platform != "linux":
        return None
    import fcntl

    descriptor = os.memfd_create("decoder-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, REGION_BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return Region(descriptor, mmap.mmap(descriptor, REGION_BYTES))
    except OSError:
        os.close(descriptor)
        raise


def attach(descriptor: int) -> mmap.mmap:
    """In the child: map the memory, and close its descriptor. Raises OSError."""
    try:
        return mmap.mmap(descriptor, REGION_BYTES)
    finally:
        os.close(descriptor)
