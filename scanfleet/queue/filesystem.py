"""kombu's filesystem transport, changed to leave nothing half written.

kombu writes a message and its table of queues in place. On a full disk, or under a kill at that moment, an empty file
is left, which no consumer can read. An empty table stops every sender and every worker forever. Here a file is written
beside its place and renamed, and unreadable files are skipped.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu.transport
import structlog
from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.json import dumps

log = structlog.get_logger()

UNFINISHED_SECONDS = 600.0  # no file of a few hundred bytes takes this long to write


class FolderChannel(filesystem.Channel):
    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        # kombu's form of a name: time, a unique part, queue.
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        _write_whole(Path(self.data_folder_out) / name, payload)

    def _get(self, queue: str) -> Any:
        while True:
            try:
                return super()._get(queue)
            except ValueError as error:  # the batch is in the ledger, and the reconciler notifies again
                log.warning("message_unreadable", queue=queue, error=str(error))

    def get_table(self, exchange: str) -> list[Any]:
        try:
            return list(super().get_table(exchange))
        except (ValueError, TypeError) as error:  # written in place by kombu itself, on a full disk
            log.warning("broker_table_unreadable", exchange=exchange, error=str(error))
            return []

    def _queue_bind(self, exchange: str, routing_key: str | None, pattern: str | None, queue: str | None) -> None:
        bound = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with self._one_writer():
            table = self.get_table(exchange)
            if bound not in table:
                _write_whole(self._exchange_file(exchange), [bound, *table])

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        """Serialise the writers of the tables on this machine."""
        try:
            self.control_folder.mkdir(exist_ok=True)
            lock = (self.control_folder / "lock").open("ab")
        except OSError as error:
            raise _cannot_write(self.control_folder, error) from error
        with lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)  # until it is closed
            yield


class FolderTransport(filesystem.Transport):
    Channel = FolderChannel


def install() -> None:
    """Make `filesystem://` mean this transport. Idempotent."""
    kombu.transport.TRANSPORT_ALIASES["filesystem"] = f"{__name__}:{FolderTransport.__name__}"


def clear_unfinished(folder: Path) -> None:
    """Delete files that were begun long ago and never moved into place."""
    for part in folder.glob("*/*.part"):
        try:
            if time.time() - part.stat().st_mtime > UNFINISHED_SECONDS:
                part.unlink()
        except FileNotFoundError:
            continue  # it was moved into place just now


def _write_whole(path: Path, content: Any) -> None:
    """Write a file whole or not at all. Raises ChannelError."""
    beside = path.with_name(f"{uuid.uuid4().hex}.part")  # no message has this suffix
    try:
        try:
            beside.write_bytes(dumps(content).encode())
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_write(path.parent, error) from error


def _cannot_write(folder: Path, error: OSError) -> ChannelError:
    return ChannelError(f"cannot write to {folder}: {error.strerror}")
