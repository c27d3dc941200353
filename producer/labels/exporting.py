"""Writes labels: the current ones, which `labels import` reads again, and every one as a line.

Both run in constant memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, Any

from scanfleet.db.labels.history import LabelLine
from scanfleet.db.labels.history import as_record as line_record
from scanfleet.db.labels.labels import CurrentLabel
from scanfleet.producer.labels.writing.folders import write_voc, write_yolo
from scanfleet.producer.labels.writing.places import below, is_text
from scanfleet.producer.labels.writing.said import Sayable
from scanfleet.producer.labels.writing.tasks import write_labelstudio
from scanfleet.producer.reports.coco import CocoFile
from scanfleet.producer.reports.output import write_csv

FORMATS = ("csv", "jsonl", "coco", "yolo", "voc", "labelstudio")
FOLDERS = ("yolo", "voc")
COLUMNS = (
    "uri", "label", "boxes", "who", "group", "note", "drawn", "attributes", "split", "cluster", "content_sha256", "at",
)  # fmt: skip
LINE_COLUMNS = tuple(field.name for field in fields(LabelLine))

SIDES = ("x0", "y0", "x1", "y1")
CurrentLabels = Callable[[], Iterable[CurrentLabel]]  # yields the same each time


def write_labels(
    current: CurrentLabels,
    sayable: Sayable,
    file: IO[bytes],
    *,
    form: str,
    root: str | None = None,
    spreadsheet: bool = False,
) -> tuple[int, Counter[str]]:
    """Write labels to one file. Returns their number, and how many are left out, by reason.

    The labels of the check become COCO's categories. root: names of images are written from there on; None: whole.
    spreadsheet: of CSV, as in `write_csv`.
    """
    if form == "labelstudio":
        return write_labelstudio(current(), file, root or "/")

    def named() -> Iterator[CurrentLabel]:
        for one in current():
            name = None if root is None else below(one.uri, root)
            yield replace(one, uri=name) if name is not None and is_text(name) else one

    if form == "coco":
        return _write_coco(named(), sayable.check.labels, file), Counter()
    if form == "jsonl":
        return _write_jsonl(map(as_record, named()), file), Counter()
    rows = (
        as_record(one) | {"boxes": boxes_text(one.boxes), "attributes": _json_text(one.attributes)} for one in named()
    )
    return write_csv(file, COLUMNS, rows, spreadsheet=spreadsheet), Counter()


def write_folder(
    current: CurrentLabels, sayable: Sayable, place: Path, *, form: str, root: str
) -> tuple[int, Counter[str]]:
    """Write labels to a folder, as `write_labels` does to a file. Raises RequestError."""
    return (write_yolo if form == "yolo" else write_voc)(current(), place, sayable, root)


def as_record(one: CurrentLabel) -> dict[str, Any]:
    """Return a label as plain values, under the names that the import reads."""
    record = {name: getattr(one, name) for name in COLUMNS if name != "at"}
    return record | {"at": one.at.isoformat()}


def _row(one: CurrentLabel) -> dict[str, Any]:
    return as_record(one) | {"boxes": boxes_text(one.boxes), "attributes": _json_text(one.attributes)}


def boxes_text(boxes: Sequence[Any] | None) -> str:
    """Return `label x0 y0 x1 y1; ...`, or JSON if words cannot say it: no box, attributes, marks in a label."""
    if boxes is None:
        return ""
    if not boxes or any(";" in box["label"] or box["label"].startswith("[") or box.get("attributes") for box in boxes):
        return json.dumps(boxes, ensure_ascii=False)
    return "; ".join(" ".join([box["label"], *(f"{box[side]:.10g}" for side in SIDES)]) for box in boxes)


def write_lines(lines: Iterable[LabelLine], file: IO[bytes], *, form: str) -> None:
    """Write every label as json, jsonl or csv."""
    if form == "csv":
        write_csv(file, LINE_COLUMNS, map(_line_row, lines))
    elif form == "jsonl":
        _write_jsonl(map(line_record, lines), file)
    else:
        file.write(b"[\n")
        for number, line in enumerate(lines):
            file.write((b",\n" if number else b"") + json.dumps(line_record(line), ensure_ascii=False).encode())
        file.write(b"\n]\n")


def _line_row(line: LabelLine) -> dict[str, Any]:
    texts = {
        "boxes": boxes_text(line.boxes),
        "shown": _json_text(line.shown),
        "attributes": _json_text(line.attributes),
    }
    return line_record(line) | texts


def _json_text(value: dict[str, Any] | None) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _write_jsonl(records: Iterable[dict[str, Any]], file: IO[bytes]) -> int:
    n = 0
    for record in records:
        file.write(f"{json.dumps(record, ensure_ascii=False)}\n".encode())
        n += 1
    return n


def _write_coco(current: Iterable[CurrentLabel], labels: Sequence[str], file: IO[bytes]) -> int:
    coco = CocoFile(file, labels)
    for one in current:
        coco.add(one.label_id, _coco_image(one), one.boxes or ())
    coco.close()
    return coco.n_images


def _coco_image(one: CurrentLabel) -> dict[str, Any]:
    more = {name: value for name, value in as_record(one).items() if name not in ("uri", "boxes") and value is not None}
    return {"file_name": one.uri, "width": one.width, "height": one.height} | more
