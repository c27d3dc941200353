"""Opens files of labels. A file that cannot be read is one line of error."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from producer.labels.formats.entries import MAX_FILE_BYTES
from producer.sources.manifest import MalformedLineError
from scanfleet.errors import AccessDenied, SourceNotFound

BLANK_BYTES = 1024  # a larger file is never called empty


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Raises SourceNotFound, AccessDenied."""
    try:
        file = path.open("rb")
    except PermissionError:
        raise AccessDenied(f"no permission to read {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise SourceNotFound(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    with file:
        yield file


def is_empty(path: Path) -> bool:
    """Return True for a file without content other than white space. Raises SourceNotFound, AccessDenied."""
    if not path.is_file() or path.stat().st_size > BLANK_BYTES:  # a pipe can be read only once, by its reader
        return False
    with opened(path) as file:
        return not file.read(BLANK_BYTES).removeprefix(codecs.BOM_UTF8).strip()


def bytes_file(path: Path) -> bytes:
    """Read a whole file. Raises MalformedLineError, SourceNotFound, AccessDenied."""
    with opened(path) as file:
        if (n_bytes := os.fstat(file.fileno()).st_size) > MAX_FILE_BYTES:
            raise MalformedLineError(f"{n_bytes >> 20} MB is over the limit of {MAX_FILE_BYTES >> 20} MB: split it")
        return file.read()


def text_file(path: Path) -> str:
    """Read a whole text file. Raises MalformedLineError, SourceNotFound, AccessDenied."""
    try:
        return bytes_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedLineError(f"not UTF-8 at byte {error.start + 1}") from None


def lines_of(path: Path) -> list[str]:
    """Read the lines of a text file, which end as on any system. Raises what `text_file` raises."""
    return text_file(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def json_file(path: Path) -> Any:
    """Read a JSON file. Not-a-number is refused where it is used. Raises what `text_file` raises."""
    try:
        return json.loads(text_file(path))
    except (ValueError, RecursionError) as error:
        raise MalformedLineError(f"not JSON: {error}") from None


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Return the regular files with this suffix, sorted by name, without links."""
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(place, name) for name in sorted(names) if name.lower().endswith(suffix)]
    return [path for path in found if path.is_file() and not path.is_symlink()]
