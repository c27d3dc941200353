"""Labels one by one as lines: JSON, JSONL, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import fields
from typing import IO

from producer.labels.exporting import boxes_text
from scanfleet.db.labels.history import LabelLine, as_record

COLUMNS = tuple(field.name for field in fields(LabelLine))


def write_lines(lines: Iterable[LabelLine], file: IO[bytes], *, form: str) -> None:
    """In one of json, jsonl, csv."""
    if form == "csv":
        _write_csv(lines, file)
        return
    begin, between, end = (b"[\n", b",\n", b"\n]\n") if form == "json" else (b"", b"", b"")
    file.write(begin)
    for number, line in enumerate(lines):
        text = json.dumps(as_record(line), ensure_ascii=False).encode()
        file.write((between if number else b"") + text + (b"" if form == "json" else b"\n"))
    file.write(end)


def _write_csv(lines: Iterable[LabelLine], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for line in lines:
            record = as_record(line)
            shown = "" if line.shown is None else json.dumps(line.shown)
            writer.writerow(record | {"boxes": boxes_text(line.boxes), "shown": shown})
    finally:
        text.detach()  # the file stays open: it is the caller's
