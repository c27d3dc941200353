"""CSV and JSONL: one row per image, with the columns uri, label, boxes, who, group, note and drawn.

boxes: "label x0 y0 x1 y1; ..." in pixels, or a JSON list of {x0, y0, x1, y1, label}; other columns are ignored. Rows
with an empty label are skipped: `labels suggest` writes them, and people fill in those they are sure of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from producer.labels.formats.entries import Entry, Options, Problems, RawBox, box_of, number_of, required, text_of
from producer.labels.formats.files import opened
from producer.sources.manifest import ROWS, Lines, MalformedLineError

SEPARATORS = {";": "semicolons", "\t": "tabs"}  # written by other programs
SIDES = ("x0", "y0", "x1", "y1")


def read_csv(path: Path, options: Options, problems: Problems) -> list[Entry]:
    return _read(path, options, problems, kind=".csv")


def read_jsonl(path: Path, options: Options, problems: Problems) -> list[Entry]:
    return _read(path, options, problems, kind=".jsonl")


def _read(path: Path, options: Options, problems: Problems, *, kind: str) -> list[Entry]:
    found: list[Entry] = []
    with opened(path) as file:
        lines = _LinesAndHeader(file)
        try:
            for uri, row in ROWS[kind](lines):
                where = f"line {lines.number}"
                if not found and not problems.found:
                    _require_columns(row or {}, options)
                try:
                    found.append(_entry(where, uri, row or {}, options))
                except MalformedLineError as error:
                    problems.add(where, str(error))
        except MalformedLineError as error:
            hint = lines.separator_hint() if kind == ".csv" and lines.number == 1 else ""
            problems.add(f"line {lines.number}", f"{error}{hint}")
    return found


class _LinesAndHeader(Lines):
    """Keeps the first line, for a hint about a wrong separator."""

    header = ""

    def __iter__(self) -> Iterator[str]:
        for line in super().__iter__():
            self.header = self.header or line
            yield line

    def separator_hint(self) -> str:
        found = [name for mark, name in SEPARATORS.items() if mark in self.header]
        return f"; columns are separated by {found[0]}: save it with commas" if found and "," not in self.header else ""


def _require_columns(row: dict[str, Any], options: Options) -> None:
    for name, option in ((options.label, "--label-column"), (options.group, "--group-column")):
        if name is not None and name not in row:
            there = ", ".join(row)[:200] or "none"
            raise MalformedLineError(f"no column {name!r} (columns: {there}): name it with {option}")


def _entry(where: str, uri: str, row: dict[str, Any], options: Options) -> Entry:
    label = text_of(row.get(options.label), "label")
    if label is None and options.label not in row:
        raise MalformedLineError(f"{options.label} is missing")
    return Entry(
        where=where,
        uri=required(uri, "uri"),
        label=label,
        blank=label is None,
        boxes=boxes_of(row.get("boxes")),
        who=text_of(row.get("who"), "who"),
        group=text_of(row.get(options.group or "group"), "group"),
        note=text_of(row.get("note"), "note"),
        drawn=text_of(row.get("drawn"), "drawn"),
    )


def boxes_of(value: object) -> tuple[RawBox, ...] | None:
    """Raises MalformedLineError."""
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("["):
            return tuple(_box_in_words(part) for part in text.split(";") if part.strip()) if text else None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedLineError(f"boxes: not JSON: {error}") from None
    if value is None:
        return None
    if not isinstance(value, list):
        raise MalformedLineError("boxes is not a list")
    return tuple(_box_of_object(box) for box in value)


def _box_in_words(text: str) -> RawBox:
    words = text.rsplit(maxsplit=4)
    if len(words) != 5:
        raise MalformedLineError(f"the box {text.strip()[:60]!r} is not `label x0 y0 x1 y1`")
    return _box(words[1:], words[0])


def _box_of_object(box: object) -> RawBox:
    if not isinstance(box, dict):
        raise MalformedLineError("a box is not an object with x0, y0, x1, y1, label")
    if missing := [side for side in SIDES if side not in box]:
        raise MalformedLineError(f"a box without {', '.join(missing)}")
    return _box([box[side] for side in SIDES], box.get("label"))


def _box(sides: list[Any], label: object) -> RawBox:
    x0, y0, x1, y1 = (number_of(side, name) for side, name in zip(sides, SIDES, strict=True))
    return box_of((x0, y0, x1, y1), required(label, "label of a box"))
