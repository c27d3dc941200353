"""The PostgreSQL of a run: on a disk that may be full, and restored from a copy of its last seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.helpers.patience import patient
from tests.services import PostgresServer, ServiceFailedError
from tests.services.postgres import SUPERUSER
from tests.services.process import Service

UP_SECONDS = 60.0
POLL_SECONDS = 0.1
CONFIGURATION = "max_wal_size = 64MB\nmin_wal_size = 32MB\n"  # fits the small disk


class RunPostgres(PostgresServer):
    """base backups lie beside its folder, which may be a small disk."""

    def __init__(self, copies: Path) -> None:
        super().__init__()
        self._copies = copies
        self._n_copies = 0

    def prepare(self) -> None:
        if not self.data.exists():
            super().prepare()
            with (self.data / "postgresql.conf").open("a") as file:
                file.write(CONFIGURATION)

    def base_backup(self) -> Path:
        """Copy the running server, as an administrator does: by pg_basebackup, with the log of the time it takes."""
        copy = self._new_copy()
        command = [str(self.binaries / "pg_basebackup"), "-D", str(copy), "-c", "fast", "-X", "fetch"]
        command += ["-h", "127.0.0.1", "-p", str(self.port), "-U", SUPERUSER]
        environment = os.environ | {"PGPASSWORD": self.password}
        done = subprocess.run(
            self.launched(command), env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise ServiceFailedError(f"pg_basebackup failed: {done.stderr}")
        return copy

    def cold_copy(self) -> Path:
        """Copy the files of the stopped server: its sequences go on exactly where they were."""
        copy = self._new_copy()
        self.stop()
        _copy_tree(self.data, copy)
        self.start()
        return copy

    def put_back(self, copy: Path) -> None:
        """Stop the server as a power cut would, and start it on the copy."""
        self.kill()
        shutil.rmtree(self.data)
        _copy_tree(copy, self.data)
        shutil.rmtree(copy)
        self.start()

    def _new_copy(self) -> Path:
        self._n_copies += 1
        copy = self._copies / f"copy-{self._n_copies}"
        copy.mkdir(mode=0o700)
        if owner := self.owner():
            os.chown(copy, *owner)
        return copy


def bring_up(server: Service) -> None:
    """Wait until a server answers that may just be ending or recovering; start it again if it has ended."""
    deadline = time.monotonic() + patient(UP_SECONDS)
    while not (server.running and server.answers()):
        if time.monotonic() > deadline:
            raise ServiceFailedError(f"{type(server).__name__} does not recover: {server.log[-2000:]}")
        if server.running:
            time.sleep(POLL_SECONDS)
        else:
            server.stop()  # forgets the ended process
            server.start()


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a folder with its owners: PostgreSQL starts on none but its own."""

    def copy(one: str, other: str) -> None:
        shutil.copy2(one, other)
        _own(one, other)

    shutil.copytree(source, target, copy_function=copy, dirs_exist_ok=True)
    for folder in (source, *(path for path in source.rglob("*") if path.is_dir())):
        _own(folder, target / folder.relative_to(source))


def _own(one: str | Path, other: str | Path) -> None:
    status = os.stat(one)
    os.chown(other, status.st_uid, status.st_gid)
