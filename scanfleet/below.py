"""Opening a file below a folder, and nowhere else, however the path is written and whatever moves meanwhile.

A path that was checked and then opened is two looks at the file system, and a link can be put in place between them.
So the links are resolved once, and the result is walked folder by folder from the root with links refused: what is
opened is what was checked (openat(2), O_NOFOLLOW).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# O_PATH: passing through a folder needs no permission to list it. Linux has it, others read-open the folder.
_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
# O_NONBLOCK: a pipe put in the place of a file must not wait for a writer.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
_NO_SUCH_WAY = (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)


class Refused(Exception):
    """The path leads elsewhere, or to something that is no regular file."""


def is_below(root: Path, path: bytes) -> bool:
    """Whether a path, with all links followed, ends below `root` as things stand now."""
    return Path(os.fsdecode(os.path.realpath(path))).is_relative_to(root)


def open_below(root: Path, path: bytes) -> int:
    """A descriptor of a regular file below `root`, which must be a real path. Raises Refused, OSError."""
    if b"\0" in path:
        raise Refused("the path holds a zero byte")
    real = Path(os.fsdecode(os.path.realpath(path)))
    if not real.is_relative_to(root):
        raise Refused(f"the path leads out of {root}")
    folder = os.open(root, _THROUGH)
    try:
        *between, name = real.relative_to(root).parts or (".",)
        for part in between:
            inner = os.open(part, _THROUGH, dir_fd=folder)
            os.close(folder)
            folder = inner
        return _open_regular(name, folder)
    except OSError as error:
        if error.errno in _NO_SUCH_WAY:
            raise Refused(f"the path does not lead to a file ({error.strerror})") from None
        raise
    finally:
        os.close(folder)


def _open_regular(name: str, folder: int) -> int:
    # Looked at before it is opened: opening a device alone may already do something.
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise Refused("not a regular file")
    descriptor = os.open(name, _READ, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused("not a regular file")
    return descriptor
