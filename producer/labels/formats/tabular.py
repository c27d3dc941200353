"""CSV and JSONL: one row per image, with the columns uri, label, boxes, who, group, note and drawn.

boxes: "label x0 y0 x1 y1; ..." in pixels, or a JSON list of {x0, y0, x1, y1, label}; other columns are ignored. Rows
with an empty label are skipped: `labels suggest` writes them, and people fill in those they are sure of.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from producer.labels.formats.entries import (
    Entry,
    Options,
    Problems,
    RawBox,
    Regions,
    box_of,
    name_of,
    number_of,
    required,
    text_of,
)
from producer.labels.formats.files import opened
from producer.sources.manifest import Lines, MalformedLineError

SEPARATORS = {";": "semicolons", "\t": "tabs"}  # written by other programs
SIDES = ("x0", "y0", "x1", "y1")
WRONG = "\0"  # no name of a column: the problem of a row
RESULTS = ({"decision", "margin", "scorer"}, {"decision", "margin", "scorer_id"})  # columns of `results export`

Row = tuple[str, dict[str, Any]]  # its place, its columns


def read_csv(path: Path, options: Options, problems: Problems) -> list[Entry]:
    with opened(path) as file:
        return _read(_csv_rows(_lines(file), options, problems), options, problems)


def read_jsonl(path: Path, options: Options, problems: Problems) -> list[Entry]:
    with opened(path) as file:
        return _read(_jsonl_rows(_lines(file), options, problems), options, problems)


def _read(rows: Iterator[Row], options: Options, problems: Problems) -> list[Entry]:
    found: list[Entry] = []
    invalid: set[tuple[str, str]] = set()  # images and persons: their other rows do not tell everything
    for where, row in rows:
        try:
            found.append(_entry(where, row, options, problems))
        except MalformedLineError as error:
            problems.leave_out(where, str(error))
            invalid.add((str(row.get(options.uri)), str(row.get("who") or "").strip()))
    return [entry for entry in found if (entry.uri, entry.who or "") not in invalid]


def _lines(file: IO[bytes]) -> Iterator[str]:
    """Yield lines, whichever of the three line ends they have. Raises MalformedLineError."""
    for line in Lines(file):
        body = line.rstrip("\r\n")
        ends = line[len(body) :]
        *first, last = body.split("\r")
        yield from (f"{part}\r" for part in first)
        yield last + ends


def _csv_rows(lines: Iterator[str], options: Options, problems: Problems) -> Iterator[Row]:
    kept: list[str] = []
    reader = csv.reader(_first_kept(lines, kept), strict=True)
    header: list[str] | None = None
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):  # spreadsheets leave rows of commas
                continue
            where = f"line {reader.line_num}"
            if header is None:
                header = fields
                try:
                    _require_columns(header, options, hint=_separator_hint(kept))
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


def _first_kept(lines: Iterator[str], kept: list[str]) -> Iterator[str]:
    for line in lines:
        if not kept:
            kept.append(line)
        yield line


def _separator_hint(lines: list[str]) -> str:
    header = lines[0] if lines else ""
    found = [name for mark, name in SEPARATORS.items() if mark in header]
    return f"; columns are separated by {found[0]}: save it with commas" if found and "," not in header else ""


def _jsonl_rows(lines: Iterator[str], options: Options, problems: Problems) -> Iterator[Row]:
    number, first = 0, True
    try:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                problems.leave_out(f"line {number}", f"not JSON: {error}")
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


def _require_columns(columns: Iterable[str], options: Options, *, hint: str = "") -> None:
    """Raises MalformedLineError."""
    names = list(columns)
    there = ", ".join(name for name in names if name)[:200] or "none"
    for name, option in (
        (options.uri, "--uri-column"), (options.label, "--label-column"), (options.group, "--group-column"),
    ):  # fmt: skip
        if name is not None and name not in names:
            raise MalformedLineError(f"no column {name!r} (columns: {there}): name it with {option}{hint}")
        if names.count(str(name)) > 1:
            raise MalformedLineError(f"the header names the column {name!r} twice")
    if "boxes" in names and names.count("boxes") > 1:
        raise MalformedLineError("the header names the column 'boxes' twice")
    if options.label == "label" and not options.label_named and any(export <= set(names) for export in RESULTS):
        raise MalformedLineError(
            "these are results, so its column 'label' holds answers of a model: name the column that a person filled "
            "in with --label-column"
        )


def _entry(where: str, row: dict[str, Any], options: Options, problems: Problems) -> Entry:
    if WRONG in row:
        raise MalformedLineError(row[WRONG])
    label = text_of(row.get(options.label), "label")
    if label is None and options.label not in row:
        raise MalformedLineError(f"{options.label} is missing")
    uri = name_of(row.get(options.uri), options.uri)
    found: dict[str, Any] = {"boxes": None}
    boxes = _listed(row.get("boxes"))
    if boxes is not None:
        regions = Regions(problems)
        for name, sides in boxes:
            regions.add(where, name, partial(_box, sides, name))
        found = regions.fields()
        if boxes and not regions.boxes:
            found["boxes"] = None
    return Entry(
        where=where,
        uri=uri,
        label=label,
        blank=label is None,
        who=text_of(row.get("who"), "who"),
        group=text_of(row.get(options.group or "group"), "group"),
        note=text_of(row.get("note"), "note"),
        drawn=text_of(row.get("drawn"), "drawn"),
        **found,
    )


def boxes_of(value: object) -> tuple[RawBox, ...] | None:
    """Raises MalformedLineError."""
    listed = _listed(value)
    return None if listed is None else tuple(_box(sides, label) for label, sides in listed)


def _listed(value: object) -> list[tuple[str, list[Any]]] | None:
    """Return labels and sides; None: no boxes were given. Raises MalformedLineError."""
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("["):
            return [_words(part) for part in text.split(";") if part.strip()] if text else None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedLineError(f"boxes: not JSON: {error}") from None
    if value is None:
        return None
    if not isinstance(value, list):
        raise MalformedLineError("boxes is not a list")
    return [_fields(box) for box in value]


def _words(text: str) -> tuple[str, list[Any]]:
    words = text.rsplit(maxsplit=4)
    if len(words) != 5:
        raise MalformedLineError(f"the box {text.strip()[:60]!r} is not `label x0 y0 x1 y1`")
    return required(words[0], "label of a box"), list(words[1:])


def _fields(box: object) -> tuple[str, list[Any]]:
    if not isinstance(box, dict):
        raise MalformedLineError("a box is not an object with x0, y0, x1, y1, label")
    if missing := [side for side in SIDES if side not in box]:
        raise MalformedLineError(f"a box without {', '.join(missing)}")
    return required(box.get("label"), "label of a box"), [box[side] for side in SIDES]


def _box(sides: list[Any], label: str) -> RawBox:
    x0, y0, x1, y1 = (number_of(side, name) for side, name in zip(sides, SIDES, strict=True))
    return box_of((x0, y0, x1, y1), label)
