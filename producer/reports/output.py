"""Opens the target of an export or report: a file that appears whole or not at all, a device, a pipe, or stdout."""

from __future__ import annotations

import codecs
import csv
import errno
import io
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from scanfleet.errors import RequestError

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins with one
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
BINARY = {"parquet": "Parquet", "xlsx": "XLSX", "sqlite": "SQLite"}  # formats that a terminal does not show
SEEKING = ("parquet", "xlsx")  # end with an index of positions, which a pipe does not have
QUOTED_ENDS = "\r\n"  # csv quotes fields that hold one of these


@contextmanager
def target(path: Path | None, *, form: str) -> Iterator[IO[bytes]]:
    """Open a file that appears once it is complete, a device or pipe directly, or stdout.

    On a terminal, control characters and marks of direction are escaped: file names, labels and columns are untrusted.
    A link stays a link: the file it points to is replaced. Raises RequestError.
    """
    if path is None:
        with _stdout(form) as file:
            yield file
        return
    require_place(path)
    found = _stat(path)
    if found is None or (stat.S_ISREG(found.st_mode) and not _is_stdout(found)):
        with _naming(path), _appearing(Path(os.path.realpath(path))) as file:
            yield file
    elif stat.S_ISREG(found.st_mode):  # redirected /dev/stdout: the shell opened that file, so it is not replaced
        with _stdout(form) as file:
            yield file
    else:
        with _naming(path), _streamed(path, form) as file:
            yield file


def write_csv(
    file: IO[bytes], columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, spreadsheet: bool = False
) -> int:
    """Write rows under a header and return their number. The caller closes the file.

    spreadsheet: begin with a byte order mark, and with `'` each text that a spreadsheet would run as a formula.
    """
    n = 0
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(_Rows(text), lineterminator=QUOTED_ENDS)
        if spreadsheet:
            text.write("\ufeff")
        cell = inert if spreadsheet else _as_is
        writer.writerow([cell(name) for name in columns])
        for row in rows:
            writer.writerow([cell(row.get(name)) for name in columns])
            n += 1
    finally:
        text.detach()
    return n


def csv_bytes(rows: Iterable[Sequence[Any]], *, spreadsheet: bool = False) -> bytes:
    """Return rows as `write_csv` writes them, for many at a time."""
    lines: list[str] = []
    writer = csv.writer(_Lines(lines), lineterminator=QUOTED_ENDS)
    writer.writerows(([inert(value) for value in row] for row in rows) if spreadsheet else rows)
    return "".join([f"{line[:-2]}\n" for line in lines]).encode()


class _Lines:
    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


class _Rows:
    """Ends rows by a line feed alone."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def write(self, row: str) -> None:
        self._text.write(f"{row.removesuffix(QUOTED_ENDS)}\n")


def _as_is(value: Any) -> Any:
    return value


def inert(value: Any) -> Any:
    """Return a cell that no spreadsheet runs."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


class _Escaping(io.BufferedIOBase):
    """Writes UTF-8 to a terminal, with what is not printable escaped as in JSON, except line breaks."""

    def __init__(self, terminal: IO[bytes]) -> None:
        self._terminal = terminal
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._terminal.write(escaped(self._decoder.decode(bytes(data))).encode())
        return len(data)

    def flush(self) -> None:
        if not self.closed:
            self._terminal.flush()


def escaped(text: str) -> str:
    r"""Escape control characters and marks of direction, but not line breaks, as JSON does.

    >>> escaped("a\N{RIGHT-TO-LEFT OVERRIDE}b")
    'a\\u202eb'
    """
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


def require_place(path: Path) -> None:
    """Check before the work that a place can be written. Raises RequestError."""
    found = _stat(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise RequestError(f"cannot write {path}: it is a folder, name a file in it")
    if found is not None and stat.S_ISSOCK(found.st_mode):
        raise RequestError(f"cannot write {path}: it is a socket, name a file")
    if found is None or stat.S_ISREG(found.st_mode):
        _require_folder(path, Path(os.path.realpath(path)).parent)
    elif not _may(path, os.W_OK):
        raise RequestError(f"cannot write {path}: no permission to write to it")


def _require_folder(path: Path, folder: Path) -> None:
    if not os.path.isdir(folder):
        raise RequestError(f"cannot write {path}: there is no folder {folder}")
    if not _may(folder, os.W_OK | os.X_OK):
        raise RequestError(f"cannot write {path}: no permission to write in {folder}")


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _stat(path: Path) -> os.stat_result | None:
    """Return the status of a path, following links; None if nothing exists there."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}") from None


def _is_stdout(found: os.stat_result) -> bool:
    try:
        return os.path.samestat(found, os.fstat(sys.stdout.fileno()))
    except OSError:  # stdout has no descriptor
        return False


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn an error of the disk into one line that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise RequestError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def _stdout(form: str) -> Iterator[IO[bytes]]:
    if form in BINARY and sys.stdout.isatty():
        raise RequestError(f"{BINARY[form]} is not for a terminal: name a file with -o, or redirect")
    raw = sys.stdout.buffer
    # Unbuffered (PYTHONUNBUFFERED, as in containers) it may write a part of what it is given, and says so to nobody.
    own = io.BufferedWriter(raw) if isinstance(raw, io.RawIOBase) else None
    stream = own or raw
    try:
        with _in_order(stream, form) as file:
            yield file
        stream.flush()
    finally:
        if own is not None:
            own.detach()


@contextmanager
def _streamed(path: Path, form: str) -> Iterator[IO[bytes]]:
    """Open a device or pipe. Opening a pipe waits for its reader."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NOCTTY)  # without O_CREAT, so that no file is made instead
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(handle, "wb") as stream, _in_order(stream, form) as file:
        yield file


@contextmanager
def _in_order(stream: IO[bytes], form: str) -> Iterator[IO[bytes]]:
    """Write SEEKING formats to a temporary file first."""
    if stream.isatty():
        yield cast("IO[bytes]", _Escaping(stream))
        return
    if form not in SEEKING:
        yield stream
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        shutil.copyfileobj(file, stream)


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """Write beside the target and rename at the end: no reader sees half a file, and an error keeps the old one."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp sets 0600
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
