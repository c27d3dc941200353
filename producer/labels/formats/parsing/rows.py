"""The rows of tables and of files with a JSON object a line.

Columns are separated by commas, semicolons or tabs, whichever gives the header the columns that are asked for.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import IO, Any

from producer.labels.formats.entries import Options, Problems
from producer.labels.formats.parsing.json_parts import loads
from producer.sources.manifest import Lines, MalformedLineError

SEPARATORS = (",", ";", "\t")
DECLARED = "sep="  # some programs begin a table with its separator
KNOWN = ("boxes", "who", "note", "drawn", "attributes", "width", "height")  # columns that may not occur twice
WRONG = "\0"  # no name of a column: the problem of a row
RESULTS = ({"decision", "margin", "scorer"}, {"decision", "margin", "scorer_id"})  # columns of `results export`

Row = tuple[str, dict[str, Any]]  # its place, its columns


def _lines(file: IO[bytes]) -> Iterator[str]:
    """Yield lines, whichever of the three line ends they have. Raises MalformedLineError."""
    for line in Lines(file):
        body = line.rstrip("\r\n")
        ends = line[len(body) :]
        *first, last = body.split("\r")
        yield from (f"{part}\r" for part in first)
        yield last + ends


def csv_rows(file: IO[bytes], options: Options, problems: Problems) -> Iterator[Row]:
    lines, before, mark = _lines(file), [], None
    try:
        for line in lines:
            before.append(line)
            if line.strip().lower().startswith(DECLARED) and len(line.strip("\r\n")) == len(DECLARED) + 1:
                mark = line.strip("\r\n")[-1]
                before[-1] = "\n"
            elif line.strip(" \t\r\n"):
                break
    except MalformedLineError as error:
        problems.add(f"line {len(before) + 1}", str(error))
        return
    if before:
        mark = mark or _separator(before[-1], options)
        yield from _separated(chain(before, lines), mark, options, problems)


def _separated(lines: Iterator[str], mark: str, options: Options, problems: Problems) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True, delimiter=mark)
    header: list[str] | None = None
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):  # spreadsheets leave rows of commas
                continue
            where = f"line {reader.line_num}"
            if header is None:
                header = fields
                try:
                    _require_columns(header, options)
                except MalformedLineError as error:
                    problems.add(where, str(error))
                    return
                continue
            surplus = [field for field in fields[len(header) :] if field.strip()]
            if len(fields) < len(header) or surplus:
                wrong = f"{len(fields)} fields where the header has {len(header)}"
                yield where, dict(zip(header, fields, strict=False)) | {WRONG: wrong}
                continue
            yield where, dict(zip(header, fields, strict=False))
    except csv.Error as error:
        problems.add(f"line {reader.line_num}", f"not CSV: {error}")
    except MalformedLineError as error:
        problems.add(f"line {reader.line_num + 1}", str(error))


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
    number, first = 0, True
    try:
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            try:
                row = loads(line)
            except MalformedLineError as error:
                problems.leave_out(f"line {number}", str(error))
                continue
            if not isinstance(row, dict):
                problems.leave_out(f"line {number}", "not an object with a text field `uri`")
                continue
            if first:
                first = False
                try:
                    _require_columns(row, options)
                except MalformedLineError as error:
                    problems.add(f"line {number}", str(error))
                    return
            yield f"line {number}", row
    except MalformedLineError as error:
        problems.add(f"line {number + 1}", str(error))


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
