"""Open a file below a folder, and nowhere else, however the path is written and whatever moves meanwhile.

Checking a path and then opening it visits the file system twice, and a link can be put in place between the two.
So links are resolved once, and the result is walked folder by folder from the root with links refused: the file that
is opened, or written, is the one that was checked (openat(2), O_NOFOLLOW).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# O_PATH: passing through a folder needs no permission to list it. Linux has it, others read-open the folder.
_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
# O_NONBLOCK: a pipe put in the place of a file must not wait for a writer.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
PART = ".part"  # ends the name of a file that is being written
_NOT_A_PATH = (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)


class Refused(Exception):
    """The path leads outside, or to something that is not a regular file."""


def is_beneath(root: Path, path: bytes) -> bool:
    """Return True if a path, with all links followed, currently ends below `root`."""
    return Path(os.fsdecode(os.path.realpath(path))).is_relative_to(root)


def open_beneath(root: Path, path: bytes) -> int:
    """Return a descriptor of a regular file below `root`, which must be a real path. Raises Refused, OSError."""
    *between, name = _parts(root, path) or (".",)
    with _folder(root, between, make=False) as folder:
        return _open_regular(name, folder)


def write_beneath(root: Path, path: bytes, data: bytes) -> None:
    """Write a file below `root`, a real path, whole or not at all, and create the folders on the way.

    It is on the disk when this returns. Raises Refused, OSError.
    """
    parent, name = os.path.split(path)
    if name in (b"", b".", b"..") or b"\0" in name:
        raise Refused("the path names no file")
    with _folder(root, _parts(root, parent), make=True) as folder:
        _write(os.fsdecode(name), data, folder)


def _parts(root: Path, path: bytes) -> tuple[str, ...]:
    """Return the parts of the way from `root` to where a path currently leads."""
    if b"\0" in path:
        raise Refused("the path holds a zero byte")
    real, top = os.fsdecode(os.path.realpath(path)), str(root).rstrip(os.sep)
    below = real.removeprefix(top)
    if not (real + os.sep).startswith(top + os.sep):
        raise Refused(f"the path leads out of {root}")
    return tuple(part for part in below.split(os.sep) if part)


@contextmanager
def _folder(root: Path, parts: Sequence[str], *, make: bool) -> Iterator[int]:
    """Open a folder below `root`, walking there with links refused."""
    folder = os.open(root, _THROUGH)
    try:
        for part in parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            inner = os.open(part, _THROUGH, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    except OSError as error:
        if error.errno in _NOT_A_PATH:
            raise Refused(f"the path does not lead to a file ({error.strerror})") from None
        raise
    finally:
        os.close(folder)


def _write(name: str, data: bytes, folder: int) -> None:
    part = f".{secrets.token_hex(8)}{PART}"
    try:
        with os.fdopen(os.open(part, _WRITE, 0o666, dir_fd=folder), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    entries = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)  # a descriptor of O_PATH cannot be synced
    try:
        os.fsync(entries)  # the name too
    finally:
        os.close(entries)


def _open_regular(name: str, folder: int) -> int:
    # Checked before it is opened: opening a device may already have an effect.
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise Refused("not a regular file")
    descriptor = os.open(name, _READ, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused("not a regular file")
    return descriptor


def names_beneath(folders: MutableSequence[bytes]) -> Iterator[bytes]:
    """Yield every name below these folders, unchecked; consumes `folders`. One that cannot be opened is yielded."""
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield entry.path
        except OSError:  # perhaps excluded because it cannot be read: no reason to refuse the rest
            yield os.path.join(folder, b"")
