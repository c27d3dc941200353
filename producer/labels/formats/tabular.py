"""CSV and JSONL: one row per image, with the columns uri, label, boxes, who, group, note, drawn and attributes.

boxes: "label x0 y0 x1 y1; ..." in pixels, or a JSON list of {x0, y0, x1, y1, label, attributes}. attributes: an object.
width, height: of the image that the boxes are about. Other columns are ignored. Rows with an empty label are skipped:
`labels suggest` writes them, and people fill in those they are sure of. Columns are separated by commas, semicolons or
tabs, whichever gives the header the columns that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from scanfleet.producer.labels.formats.entries import (
    Attributes,
    Entry,
    Options,
    Problems,
    RawBox,
    Regions,
    attributes_of,
    box_of,
    name_of,
    number_of,
    required,
    size_of,
    text_of,
)
from scanfleet.producer.labels.formats.parsing.files import opened
from scanfleet.producer.labels.formats.parsing.json_parts import loads
from scanfleet.producer.labels.formats.parsing.rows import WRONG, Row, csv_rows, jsonl_rows
from scanfleet.producer.sources.manifest import MalformedLineError

SIDES = ("x0", "y0", "x1", "y1")
Listed = tuple[str, list[Any], Any]  # label, sides and attributes of a box


def read_csv(path: Path, options: Options, problems: Problems) -> list[Entry]:
    with opened(path) as file:
        return _read(csv_rows(file, options, problems), options, problems)


def read_jsonl(path: Path, options: Options, problems: Problems) -> list[Entry]:
    with opened(path) as file:
        return _read(jsonl_rows(file, options, problems), options, problems)


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
        for name, sides, more in boxes:
            regions.add(where, name, partial(_box, sides, name), attributes_of(more, where, problems))
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
        size=size_of(row.get("width"), row.get("height")) if boxes else None,
        attributes=_attributes(row, where, options, problems),
        **found,
    )


def _attributes(row: dict[str, Any], where: str, options: Options, problems: Problems) -> Attributes | None:
    given = row.get("attributes")
    if isinstance(given, str) and given.strip():
        given = loads(given)
    named = {name: row.get(name) for name in options.attributes}
    if not named:
        return attributes_of(given, where, problems)
    return attributes_of((given if isinstance(given, dict) else {}) | named, where, problems)


def boxes_of(value: object) -> tuple[RawBox, ...] | None:
    """Raises MalformedLineError."""
    listed = _listed(value)
    return None if listed is None else tuple(_box(sides, label) for label, sides, _ in listed)


def _listed(value: object) -> list[Listed] | None:
    """Return labels, sides and attributes; None: no boxes were given. Raises MalformedLineError."""
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("["):
            return [_words(part) for part in text.split(";") if part.strip()] if text else None
        try:
            value = loads(text)
        except MalformedLineError as error:
            raise MalformedLineError(f"boxes: {error}") from None
    if value is None:
        return None
    if not isinstance(value, list):
        raise MalformedLineError("boxes is not a list")
    return [_fields(box) for box in value]


def _words(text: str) -> Listed:
    words = text.rsplit(maxsplit=4)
    if len(words) != 5:
        raise MalformedLineError(f"the box {text.strip()[:60]!r} is not `label x0 y0 x1 y1`")
    return required(words[0], "label of a box"), list(words[1:]), None


def _fields(box: object) -> Listed:
    if not isinstance(box, dict):
        raise MalformedLineError("a box is not an object with x0, y0, x1, y1, label")
    if missing := [side for side in SIDES if side not in box]:
        raise MalformedLineError(f"a box without {', '.join(missing)}")
    return required(box.get("label"), "label of a box"), [box[side] for side in SIDES], box.get("attributes")


def _box(sides: list[Any], label: str) -> RawBox:
    x0, y0, x1, y1 = (number_of(side, name) for side, name in zip(sides, SIDES, strict=True))
    return box_of((x0, y0, x1, y1), label)
