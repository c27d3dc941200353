"""Opens files of labels, packed by gzip or not. A file that cannot be read is one line of error."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scanfleet.errors import AccessDenied, SourceNotFound
from scanfleet.producer.labels.formats.entries import MAX_FILE_BYTES
from scanfleet.producer.sources.manifest import BrokenFileError, MalformedLineError

BLANK_BYTES = 1024  # a larger file is never called empty
MAX_UNPACKED = 4 << 30  # bytes: a packed file that holds more is no list of labels
GZIP = b"\x1f\x8b"  # its first bytes


class _Unpacked(io.RawIOBase):
    """The content of a packed file. Reading raises BrokenFileError where it is damaged or endless."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = gzip.GzipFile(fileobj=file)
        self._n_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        try:
            data = self._file.read(len(view))
        except (OSError, EOFError, zlib.error) as error:
            raise BrokenFileError(f"not a whole gzip file: {error}") from None
        self._n_bytes += len(data)
        if self._n_bytes > MAX_UNPACKED:
            raise BrokenFileError(f"it unpacks to more than {MAX_UNPACKED >> 30} GB")
        view[: len(data)] = data
        return len(data)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Raises SourceNotFound, AccessDenied. Reading a packed file raises MalformedLineError."""
    try:
        file = path.open("rb")
    except PermissionError:
        raise AccessDenied(f"no permission to read {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise SourceNotFound(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    with file:
        yield io.BufferedReader(_Unpacked(file)) if file.peek(2)[:2] == GZIP else file


def suffix_of(path: Path) -> str:
    """Return the suffix in small letters, that below `.gz` if there is one."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix == ".gz" else suffix


def is_empty(path: Path) -> bool:
    """Return True for a file without content other than white space. Raises SourceNotFound, AccessDenied."""
    if not path.is_file() or path.stat().st_size > BLANK_BYTES:  # a pipe can be read only once, by its reader
        return False
    with opened(path) as file:
        try:
            return not file.read(BLANK_BYTES).removeprefix(codecs.BOM_UTF8).strip()
        except MalformedLineError:
            return False


@contextmanager
def rereadable(path: Path) -> Iterator[Path]:
    """Yield a file that can be read several times: the file itself, or a copy of a pipe. Raises as `opened`."""
    if path.is_file():
        yield path
        return
    with tempfile.NamedTemporaryFile() as copy:
        with opened(path) as file:
            shutil.copyfileobj(file, copy)
        copy.flush()
        yield Path(copy.name)


def bytes_file(path: Path) -> bytes:
    """Read a whole file. Raises MalformedLineError, SourceNotFound, AccessDenied."""
    with opened(path) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise MalformedLineError(f"it is over the limit of {MAX_FILE_BYTES >> 20} MB: split it")
    return data


def text_file(path: Path) -> str:
    """Read a whole text file. Raises MalformedLineError, SourceNotFound, AccessDenied."""
    try:
        return bytes_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedLineError(f"not UTF-8 at byte {error.start + 1}") from None


def lines_of(path: Path) -> list[str]:
    """Read the lines of a text file, which end as on any system. Raises what `text_file` raises."""
    return text_file(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Return the regular files with this suffix, sorted by name, without links."""
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(place, name) for name in sorted(names) if name.lower().endswith(suffix)]
    return [path for path in found if path.is_file() and not path.is_symlink()]
