"""The small disks of the chaos runs, in a process of their own: mounts of its own are for its whole life."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import errno, sys
from pathlib import Path
from tests.chaos.fleet.disk import own_mounts, small_disk
from tests.services import ServiceMissingError

folder = Path(sys.argv[1])
try:
    own_mounts()
except ServiceMissingError as error:
    print(error, file=sys.stderr)
    sys.exit(69)
with small_disk(folder, megabytes=1) as disk:
    (folder / "before").write_bytes(b"x")
    disk.fill()
    try:
        (folder / "before").write_bytes(b"x" * 5000)
    except OSError as error:
        print(errno.errorcode[error.errno])
    disk.free()
    (folder / "after").write_bytes(b"x" * 5000)
    print(sorted(path.name for path in folder.iterdir()))
    sys.stdout.flush()
    sys.stdin.readline()
print(folder.exists())
"""


def test_a_small_disk_fills_up_is_seen_by_its_process_alone_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        lines = [process.stdout.readline().strip() for _ in range(2)]
        seen = list(folder.iterdir())
        rest, _ = process.communicate("\n", timeout=60)
    if process.returncode == 69 and not os.environ.get("CI"):
        pytest.skip("no mounts of one's own here")
    assert lines == ["ENOSPC", "['after', 'before']"]
    assert seen == []  # from outside
    assert rest.split() == ["False"]
    assert not folder.exists()
