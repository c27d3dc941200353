"""A copy of this tree, to change."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def copy(root: Path, tree: Path) -> Path:
    """Copy what git knows or would add, and let the copy use the same environment."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (root / name).is_file() or (root / name).is_symlink():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, tree / name, follow_symlinks=False)
    (tree / ".venv").symlink_to((root / ".venv").resolve())
    return tree
