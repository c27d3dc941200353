"""The folder of one training: the result of each stage, so that another attempt resumes where the last one ended.

data_dir/trainings/<id>/
    training.json     the identity of the training: the folder of another one with the same number is emptied
    snapshot.json ... the result of each finished stage; written last, so that it means a complete result
    examples.json     the labels; images/ their files, fit/ checkpoints and caches, adapter/ the adapter folder
    report.json, report.html, report.png    stay after the end
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import IO, Any

from scanfleet.config.settings import Settings
from scanfleet.errors import DeviceUnavailable

FOLDER = "trainings"
IDENTITY, LOCK, REPORT = "training.json", "lock", "report.json"
KEPT = (IDENTITY, LOCK, "report.json", "report.html", "report.png")


class WorkFolder:
    """The folder of one training, locked by this process while it is open."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Raises DeviceUnavailable while another process works in it."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path / LOCK)
        if _read(path / IDENTITY) != identity:
            self.clean(keep=(LOCK,))
            self.write(IDENTITY, identity)

    def result(self, stage: str) -> dict[str, Any] | None:
        """The result of a stage; None: it has not finished."""
        return _read(self.path / f"{stage}.json")

    def settle(self, stage: str, result: dict[str, Any]) -> None:
        self.write(f"{stage}.json", result)

    def forget(self, stage: str) -> None:
        (self.path / f"{stage}.json").unlink(missing_ok=True)

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        write_atomically(self.path / name, json.dumps(value, indent=1, allow_nan=False).encode())

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def clean(self, *, keep: tuple[str, ...] = KEPT) -> None:
        """Delete images, caches and checkpoints; the report stays."""
        clean(self.path, keep=keep)

    def close(self) -> None:
        self._lock.close()


def folder_of(settings: Settings, training_id: int) -> Path:
    return settings.data_dir / FOLDER / str(training_id)


def clean(folder: Path, *, keep: tuple[str, ...] = KEPT) -> None:
    for entry in folder.iterdir():
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Clean the folder of a training that has ended, unless a process still works in it."""
    try:
        lock = _locked(folder / LOCK)
    except DeviceUnavailable:
        return
    with lock:
        clean(folder)


def needs_cleaning(folder: Path) -> bool:
    return any(entry.name not in KEPT for entry in folder.iterdir())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically and durably."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def _locked(path: Path) -> IO[bytes]:
    """Lock until the file is closed or the process ends. Child processes do not inherit the lock."""
    file = path.open("ab")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise DeviceUnavailable(f"another process still works in {path.parent}") from None
    return file
