"""A file system of a few megabytes that a test can fill and free."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BLOCKS = (bytes(1 << 20), bytes(4096))


class TinyDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Fill the disk to the last byte."""
        with self._ballast.open("ab", buffering=0) as file:
            for block in BLOCKS:
                with suppress(OSError):
                    while True:
                        file.write(block)

    def free(self) -> None:
        self._ballast.unlink()


@contextmanager
def tiny_disk(folder: Path, *, megabytes: int) -> Iterator[TinyDisk]:
    """Mounted on `folder`. Without the right to mount it skips the test on a laptop, and fails it where CI is set."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={megabytes}m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        reason = f"a test of a full disk must mount a tmpfs (as root): {mounted.stderr.decode().strip()}"
        if os.environ.get("CI"):
            raise RuntimeError(reason)
        pytest.skip(reason)
    try:
        yield TinyDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
