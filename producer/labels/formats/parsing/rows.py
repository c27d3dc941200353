"""The rows of tables and of files with a JSON object a line.

Columns are separated by commas, semicolons or tabs, whichever gives the header the columns that are asked for.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import IO, Any

from scanfleet.producer.labels.formats.entries import Options, Problems
from scanfleet.producer.labels.formats.parsing.json_parts import loads
from scanfleet.producer.sources.manifest import Lines, MalformedLineError, fields_of, resumed

SEPARATORS = (",", ";", "\t")
DECLARED = "sep="  # some programs begin a table with its separator
KNOWN = ("boxes", "who", "note", "drawn", "attributes", "width", "height")  # columns that may not occur twice
WRONG = "\0"  # no name of a column: the problem of a row
RESULTS = ({"decision", "margin", "scorer"}, {"decision", "margin", "scorer_id"})  # columns of `results export`

Row = tuple[str, dict[str, Any]]  # its place, its columns


class AnyLines(Lines):
    """Lines, whichever of the three line ends they have."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._found = Lines(file)
        self._parts: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        while self._parts or self._fill():
            self.number += 1
            yield self._parts.popleft()

    def _fill(self) -> bool:
        before = self._found.number
        try:
            line = next(iter(self._found), None)
        except MalformedLineError:
            self.number += self._found.number - before
            raise
        if line is None:
            return False
        body = line.rstrip("\r\n")
        *first, last = body.split("\r")
        self._parts += [*(f"{part}\r" for part in first), last + line[len(body) :]]
        return True


def csv_rows(file: IO[bytes], options: Options, problems: Problems) -> Iterator[Row]:
    lines = AnyLines(file)
    try:
        mark, header = _head(lines, options)
        for fields in resumed(partial(fields_of, lines, mark)):
            where = f"line {lines.number}"
            if isinstance(fields, MalformedLineError):
                problems.leave_out(where, str(fields))
            elif any(field.strip() for field in fields):  # spreadsheets leave rows of commas
                yield where, _row(fields, header)
    except MalformedLineError as error:
        problems.add(f"line {lines.number or 1}", str(error))


def _row(fields: list[str], header: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(header, fields, strict=False))
    surplus = [field for field in fields[len(header) :] if field.strip()]
    if len(fields) < len(header) or surplus:
        row[WRONG] = f"{len(fields)} fields where the header has {len(header)}"
    return row


def _head(lines: AnyLines, options: Options) -> tuple[str, list[str]]:
    """Read the header, and return what separates columns, and their names. Raises MalformedLineError."""
    mark = None
    for line in lines:
        bare = line.strip("\r\n")
        if bare.lower().startswith(DECLARED) and len(bare) == len(DECLARED) + 1:
            mark = bare[-1]
        elif line.strip(" \t\r\n,;"):
            mark = mark or _separator(line, options)
            header = next(fields_of(lines, mark, line), [])
            _require_columns(header, options)
            return mark, header
    return mark or ",", []


def _separator(header: str, options: Options) -> str:
    """Return the mark that gives the header the columns that are asked for; a comma if none does."""
    for mark in SEPARATORS:
        try:
            fields = next(csv.reader([header], delimiter=mark), [])
        except csv.Error:
            continue
        if options.uri in fields and options.label in fields:
            return mark
    return ","


def jsonl_rows(file: IO[bytes], options: Options, problems: Problems) -> Iterator[Row]:
    lines, first = AnyLines(file), True
    try:
        for line in resumed(partial(iter, lines)):
            where = f"line {lines.number}"
            try:
                row = _object(line)
            except MalformedLineError as error:
                problems.leave_out(where, str(error))
                continue
            if row is None:
                continue
            if first:
                _require_columns(row, options)
                first = False
            yield where, row
    except MalformedLineError as error:
        problems.add(f"line {lines.number or 1}", str(error))


def _object(line: str | MalformedLineError) -> dict[str, Any] | None:
    """Return the object of a line, None for a blank one. Raises MalformedLineError."""
    if isinstance(line, MalformedLineError):
        raise line
    if not line.strip():
        return None
    row = loads(line)
    if not isinstance(row, dict):
        raise MalformedLineError("not an object with a text field `uri`")
    return row


def _require_columns(columns: Iterable[str], options: Options) -> None:
    """Raises MalformedLineError."""
    names = list(columns)
    there = ", ".join(name for name in names if name)[:200] or "none"
    for name, option in (
        (options.uri, "--uri-column"), (options.label, "--label-column"), (options.group, "--group-column"),
    ):  # fmt: skip
        if name is not None and name not in names:
            raise MalformedLineError(f"no column {name!r} (columns: {there}): name it with {option}")
    if missing := [name for name in options.attributes if name not in names]:
        raise MalformedLineError(f"no column {missing[0]!r} (columns: {there}), but --attribute-column names it")
    for name in (options.uri, options.label, options.group or "group", *KNOWN, *options.attributes):
        if names.count(name) > 1:
            raise MalformedLineError(f"the header names the column {name!r} twice")
    if options.label == "label" and not options.label_named and any(export <= set(names) for export in RESULTS):
        raise MalformedLineError(
            "these are results, so its column 'label' holds answers of a model: name the column that a person filled "
            "in with --label-column"
        )
