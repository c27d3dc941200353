"""Small disks of a run: file systems in memory that only its own processes see, and that end with them.

A mount namespace of its own needs no right where the system lets a user have one (user namespaces), and leaves nothing
mounted behind, however the run ends.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services import ServiceMissingError
from tests.services.tiny_disk import TinyDisk

CLONE_NEWNS, CLONE_NEWUSER = 0x0002_0000, 0x1000_0000  # sched.h
MS_REC, MS_PRIVATE = 0x4000, 1 << 18  # sys/mount.h
MNT_DETACH = 2


def own_mounts() -> None:
    """Give this thread, and all threads and processes that it starts, mounts of their own. Raises ServiceMissingError.

    Call it in the first thread, before there are others.
    """
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", CLONE_NEWNS | (0 if user == 0 else CLONE_NEWUSER))
        if user != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    except (OSError, AttributeError) as error:  # AttributeError: not Linux
        raise ServiceMissingError(f"small disks cannot be mounted here: {error}") from error


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[TinyDisk]:
    """Mounted on an existing folder, which is removed at the end. Call `own_mounts` before."""
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={megabytes}m".encode())
    try:
        yield TinyDisk(folder)
    finally:
        _call("umount2", os.fsencode(folder), MNT_DETACH)
        folder.rmdir()


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
