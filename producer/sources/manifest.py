"""Rows of manifests, which name images one by one: text (one uri per line), CSV or JSONL (a column or field `uri`).

Other columns are kept with the image. Manifests are read line by line, in constant memory. `read_rows` reads on behind
an odd line.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import IO, Any, Never, TypeVar

MAX_LINE_BYTES = 1 << 20
MAX_LEVELS = 50  # of nesting in a column
SEPARATORS = (",", ";", "\t")
URI, SOURCE_REF = "uri", "source-ref"  # source-ref: in manifests of Rekognition and SageMaker Ground Truth

Row = tuple[str, dict[str, Any] | None]  # uri, other columns
RowT = TypeVar("RowT")


class MalformedLineError(Exception):
    """The line just read is malformed; the message says how."""


class BrokenFileError(MalformedLineError):
    """The same, and what follows cannot be told apart any more."""


class Lines:
    """The decoded lines of a file, and the number of the last one read. A new iteration reads on where one ended."""

    unit = "line"

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while raw := self._file.readline(MAX_LINE_BYTES + 1):
            self.number += 1
            yield self._decode(raw)

    def _decode(self, raw: bytes) -> str:
        if len(raw) > MAX_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):  # its end is no line of its own
                raw = self._file.readline(MAX_LINE_BYTES)
            raise MalformedLineError(f"longer than {MAX_LINE_BYTES} bytes: is this a text file?")
        if self.number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise BrokenFileError("it is UTF-16: save the file as UTF-8")
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


def _table(lines: Lines) -> Callable[[Lines], Iterator[Row]]:
    """Read the header of a CSV or TSV file, and return the reader of its rows. Raises BrokenFileError."""
    first = next((line for line in lines if line.strip()), "")
    mark = _separator(first)
    header = next(fields_of(lines, mark, first), [])
    if URI not in header:
        raise BrokenFileError(f"no column `uri` in the header (found: {', '.join(header)[:200] or 'nothing'})")
    if len(set(header)) != len(header):
        raise BrokenFileError("the header names a column twice")
    at = header.index(URI)
    others = [name for name in header if name != URI]

    def rows(lines: Lines) -> Iterator[Row]:
        for fields in fields_of(lines, mark):
            if len(fields) != len(header):
                raise MalformedLineError(f"{len(fields)} fields where the header has {len(header)}")
            uri = fields.pop(at)
            yield uri, dict(zip(others, fields, strict=True)) or None

    return rows


def _separator(header: str) -> str:
    """Return what separates the column `uri` from the others: spreadsheets write semicolons, too."""
    for mark in SEPARATORS:
        try:
            if URI in next(csv.reader([header], delimiter=mark), []):
                return mark
        except csv.Error:
            continue
    return max(SEPARATORS, key=header.count)


def fields_of(lines: Lines, mark: str, *first: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV file, blank ones left out. Raises MalformedLineError, BrokenFileError."""
    begin = lines.number  # of the row
    try:
        for fields in csv.reader(chain(first, lines), strict=True, delimiter=mark):
            begin = lines.number
            if fields:  # a blank line
                yield fields
    except BrokenFileError:
        raise
    except (csv.Error, MalformedLineError) as error:
        words = f"not CSV: {error}" if isinstance(error, csv.Error) else str(error)
        # After an open quote nobody knows where the next row begins.
        raise (MalformedLineError if lines.number - begin <= 1 else BrokenFileError)(words) from None


def _jsonl_rows(lines: Lines) -> Iterator[Row]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise MalformedLineError(f"not JSON: {error}") from None
        name = URI if isinstance(row, dict) and URI in row else SOURCE_REF
        if not isinstance(row, dict) or not isinstance(row.get(name), str):
            raise MalformedLineError("not an object with a text field `uri` (or `source-ref`)")
        yield row.pop(name), row or None


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON value")


READERS: dict[str, Callable[[Lines], Callable[[Lines], Iterator[Row]]]] = {
    **dict.fromkeys((".txt",), lambda _: _text_rows),
    **dict.fromkeys((".csv", ".tsv"), _table),
    **dict.fromkeys((".jsonl", ".ndjson", ".manifest"), lambda _: _jsonl_rows),
}


def read_rows(lines: Lines, kind: str) -> Iterator[Row | MalformedLineError]:
    """Yield the rows of a manifest, and odd lines as errors. kind: of READERS.

    Raises MalformedLineError for a header, BrokenFileError.
    """
    yield from resumed(partial(READERS[kind](lines), lines))


def resumed(rows: Callable[[], Iterator[RowT]]) -> Iterator[RowT | MalformedLineError]:
    """Yield rows, and odd ones as errors: a new iterator reads on behind them. Raises BrokenFileError."""
    while True:
        try:
            yield from rows()
        except BrokenFileError:
            raise
        except MalformedLineError as error:
            yield error
        else:
            return


def check_storable(uri: str, meta: dict[str, Any] | None) -> None:
    """Refuse values that no database can store, so that the error names the line."""
    if not uri.strip():
        raise MalformedLineError("the uri is empty")
    if meta is None and uri.isascii() and "\0" not in uri:
        return
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
