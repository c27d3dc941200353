"""Manifests name images one by one: text (one uri per line), CSV or JSONL (a column or field `uri`).

Other columns are kept with the image. Manifests are read line by line, in constant memory.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Never

from producer.sources.base import Candidate, Skip, local_image
from scanfleet.config.validation import printable
from scanfleet.db.scans.batches import NewImage
from scanfleet.errors import AccessDenied, BadManifest, SourceNotFound
from scanfleet.images import SUFFIXES
from scanfleet.redaction import is_presigned, without_signatures
from scanfleet.storage.file_uri import path_to_uri, uri_to_path

MAX_LINE_BYTES = 1 << 20
MAX_LEVELS = 50  # of nesting in a column
SHOWN_CHARACTERS = 60  # of a line that is not an entry

Row = tuple[str, dict[str, Any] | None]  # uri, other columns


class MalformedLineError(Exception):
    """The line just read is malformed; the message says how."""


class ManifestSource:
    """The images of a manifest. Relative paths start at the manifest's folder and must stay below it."""

    sifts_by_suffix = False
    resumable = False

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._folder = os.fsencode(os.path.realpath(self._path.parent))
        self.root = os.fsdecode(self._folder)
        self.name = path_to_uri(os.fsencode(self._path))

    def candidates(self, *, after: str | None, skip: Skip) -> Iterator[Candidate]:
        with _opened(self._path) as file:
            lines = Lines(file)
            kind = self._path.suffix.lower()
            try:
                for number, (text, meta) in enumerate(ROWS[kind](lines)):
                    if number == 0 and kind == ".txt":
                        self._require_entry(text)
                    yield Candidate(image=self._image(text, meta), path=text)
            except MalformedLineError as error:
                raise BadManifest(f"{self._path}, line {lines.number}: {printable(str(error))}") from None

    def _require_entry(self, text: str) -> None:
        """Refuse prose: the first entry of a .txt file must look like an image.

        That is a uri, an absolute path, the name of an image, or an existing file below the manifest's folder.
        """
        exists = os.path.exists(os.path.join(self._folder, uri_to_path(text)))
        if not exists and "*" in text:
            raise MalformedLineError("manifests do not expand globs: name the folder instead and choose with --include")
        if "://" in text or text.startswith("/") or text.lower().endswith(SUFFIXES) or exists:
            return
        short = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
        raise MalformedLineError(f"{short!r} is neither a uri nor the name of an image: write one image per line")

    def _image(self, text: str, meta: dict[str, Any] | None) -> NewImage:
        _check_storable(text, meta)
        meta = without_signatures(meta)
        if is_presigned(text):
            raise MalformedLineError("a presigned URL is a secret and expires: write s3://bucket/key")
        if text.startswith("s3://"):
            if not all(text.removeprefix("s3://").partition("/")):
                raise MalformedLineError(f"{text!r} names no object: write s3://bucket/key")
            return NewImage(uri=text, meta=meta)
        if "://" in text and not text.startswith("file:///"):
            raise MalformedLineError(f"{text.split('://')[0]}:// is not supported: write a path or s3://bucket/key")
        path = uri_to_path(text)
        if b"\0" in path:
            raise MalformedLineError("contains a NUL byte")
        if path.startswith(b"/"):
            path = os.path.normpath(path)
            return local_image(path, root=os.fsdecode(os.path.dirname(path)), meta=meta)
        return local_image(self._below(path), root=self.root, meta=meta)

    def _below(self, path: bytes) -> bytes:
        joined = os.path.normpath(os.path.join(self._folder, path))
        if not joined.startswith(self._folder.rstrip(b"/") + b"/"):
            raise MalformedLineError(f"{os.fsdecode(path)} is not below the manifest's folder: write the absolute path")
        return joined


class Lines:
    """The decoded lines of a file, and the number of the last one read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while raw := self._file.readline(MAX_LINE_BYTES + 1):
            self.number += 1
            yield self._decode(raw)

    def _decode(self, raw: bytes) -> str:
        if len(raw) > MAX_LINE_BYTES:
            raise MalformedLineError(f"longer than {MAX_LINE_BYTES} bytes: is this a text file?")
        if b"\0" in raw:
            raise MalformedLineError("contains a NUL byte: this is not a text file")
        try:
            return raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedLineError(f"not UTF-8 at byte {error.start + 1}: save the file as UTF-8") from None


def _text_rows(lines: Lines) -> Iterator[Row]:
    """Yield the lines, without blank ones and comments (#)."""
    for line in lines:
        uri = line.rstrip("\r\n")
        if uri.strip() and not uri.startswith("#"):
            yield uri, None


def _csv_rows(lines: Lines) -> Iterator[Row]:
    rows = _csv_fields(lines)
    header = next(rows, [])
    if "uri" not in header:
        raise MalformedLineError(f"no column `uri` in the header (found: {', '.join(header)[:200] or 'nothing'})")
    if len(set(header)) != len(header):
        raise MalformedLineError("the header names a column twice")
    for fields in rows:
        if len(fields) != len(header):
            raise MalformedLineError(f"{len(fields)} fields where the header has {len(header)}")
        columns = dict(zip(header, fields, strict=True))
        yield columns.pop("uri"), columns or None


def _csv_fields(lines: Lines) -> Iterator[list[str]]:
    try:
        for fields in csv.reader(lines, strict=True):
            if fields:  # a blank line
                yield fields
    except csv.Error as error:
        raise MalformedLineError(f"not CSV: {error}") from None


def _jsonl_rows(lines: Lines) -> Iterator[Row]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise MalformedLineError(f"not JSON: {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get("uri"), str):
            raise MalformedLineError("not an object with a text field `uri`")
        yield row.pop("uri"), row or None


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON value")


ROWS: dict[str, Callable[[Lines], Iterator[Row]]] = {".txt": _text_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows}


def _check_storable(uri: str, meta: dict[str, Any] | None) -> None:
    """Refuse values that no database can store, so that the error names the line."""
    if not uri.strip():
        raise MalformedLineError("the uri is empty")
    if _deeper(meta, MAX_LEVELS):
        raise MalformedLineError(f"objects or lists nested more than {MAX_LEVELS} levels deep")
    try:
        text = json.dumps([uri, meta], ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise MalformedLineError("contains half of a surrogate pair, which is not text") from None
    except ValueError:  # 1e999
        raise MalformedLineError("contains a number that is too large") from None
    if b"\\u0000" in text:
        raise MalformedLineError("contains a NUL character")


def _deeper(value: object, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _deeper(inner, levels - 1) for inner in inside)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except PermissionError:
        raise AccessDenied(f"no permission to read the manifest {path}") from None
    except OSError as error:
        raise SourceNotFound(f"cannot read the manifest {path}: {error.strerror}") from None
    with file:
        yield file
