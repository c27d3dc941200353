"""Amazon Rekognition and SageMaker Ground Truth: a JSON object a line, with `source-ref` and label attributes.

A label attribute NAME has its metadata in `NAME-metadata`: the type of the job, the names of the classes, and whether a
person annotated it. What a machine labelled says nothing, nor does an attribute that failed.
(docs.aws.amazon.com/sagemaker/latest/dg/augmented-manifest.html, …/sms-data-output.html)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from scanfleet.producer.labels.formats.entries import (
    Entry,
    Options,
    Problems,
    RawBox,
    Reason,
    Regions,
    Size,
    box_of,
    name_of,
    number_of,
    required,
    size_of,
    text_of,
)
from scanfleet.producer.labels.formats.parsing.files import opened
from scanfleet.producer.labels.formats.parsing.json_parts import loads
from scanfleet.producer.sources.manifest import Lines, MalformedLineError, resumed

SOURCE = "source-ref"
METADATA = "-metadata"
ONE_CLASS, CLASSES, BOXES = (f"groundtruth/{kind}" for kind in (
    "image-classification", "image-classification-multilabel", "object-detection",
))  # fmt: skip
SIDES = ("left", "top", "width", "height")
Row = dict[str, Any]


def read_groundtruth(path: Path, options: Options, problems: Problems) -> list[Entry]:
    rows: list[tuple[str, Row]] = []
    try:
        with opened(path) as file:
            lines = Lines(file)
            for line in resumed(partial(iter, lines)):
                where = f"line {lines.number}"
                try:
                    if row := _row(line):
                        rows.append((where, row))
                except MalformedLineError as error:
                    problems.leave_out(where, str(error))
        names = _wanted([row for _, row in rows], options)
    except MalformedLineError as error:
        problems.add("the file", str(error))
        return []
    found = []
    for where, row in rows:
        try:
            found.append(_entry(where, row, names, options, problems))
        except _MachineError as error:
            problems.leave_out(where, str(error), Reason.MACHINE)
        except MalformedLineError as error:
            problems.leave_out(where, str(error))
    return found


class _MachineError(MalformedLineError):
    """The label is not a person's."""


def _row(line: str | MalformedLineError) -> Row | None:
    """Return the object of a line, None for a blank one. Raises MalformedLineError."""
    if isinstance(line, MalformedLineError):
        raise line
    if not line.strip():
        return None
    row = loads(line)
    if not isinstance(row, dict) or SOURCE not in row:
        raise MalformedLineError(f"not an object with `{SOURCE}`")
    return row


def _wanted(rows: list[Row], options: Options) -> list[str]:
    """Return the label attributes to read: the one that was named, else all if they do not contradict.

    Several classifications are what Rekognition writes for an image with several labels; several sets of boxes, or
    both kinds, are several jobs. Raises MalformedLineError if it is not clear which.
    """
    kinds = {name: _type(row, name) for row in rows for name in _attributes(row)}
    there = ", ".join(sorted(kinds)) or "none"
    if options.label_named:
        if options.label not in kinds:
            raise MalformedLineError(f"no label attribute {options.label!r} (--label-column; found: {there})")
        return [options.label]
    if not kinds:
        raise MalformedLineError(f"no label attribute: no field has its `NAME{METADATA}`")
    if len(kinds) > 1 and set(kinds.values()) != {ONE_CLASS}:
        raise MalformedLineError(f"several label attributes ({there}): name one with --label-column")
    return sorted(kinds)


def _attributes(row: Row) -> list[str]:
    """Return the label attributes, also those whose job failed and left only metadata."""
    ends = len(METADATA)
    return [name[:-ends] for name in row if name.endswith(METADATA) and isinstance(row[name], dict)]


def _metadata(row: Row, name: str) -> Row:
    found = row.get(name + METADATA)
    return found if isinstance(found, dict) else {}


def _type(row: Row, name: str) -> str:
    return str(_metadata(row, name).get("type"))


def _entry(where: str, row: Row, names: list[str], options: Options, problems: Problems) -> Entry:
    """Raises MalformedLineError."""
    uri = name_of(row[SOURCE], SOURCE)
    given = [name for name in names if name in row or _metadata(row, name)]
    if not given:
        raise MalformedLineError(f"{uri} has no label attribute")
    regions = Regions(problems)
    size: Size | None = None
    classes: set[str] = set()
    for name in given:
        metadata = _metadata(row, name)
        if "failure-reason" in metadata or name not in row:
            raise MalformedLineError(f"{name} has no value: {str(metadata.get('failure-reason'))[:100]}")
        if str(metadata.get("human-annotated")).lower() not in ("yes", "true"):
            raise _MachineError(f"{name} was not annotated by a person")
        kind = metadata.get("type")
        if kind == ONE_CLASS:
            classes.add(required(metadata.get("class-name"), f"class-name of {name}"))
        elif kind == CLASSES:
            for label in _several(row[name], metadata, name):
                regions.add(where, label, lambda: None)
        elif kind == BOXES:
            size = _add_boxes(where, row[name], metadata, regions)
        else:
            raise MalformedLineError(f"{name} is of the type {str(kind)[:60]}, which cannot be read")
    if len(classes) > 1:
        raise MalformedLineError(f"it has several labels ({', '.join(sorted(classes)[:5])}): --label-column names one")
    found = regions.fields()
    if not regions.boxes and (classes or regions.bare):
        found["boxes"] = None
    group = text_of(row.get(options.group or "group"), "group")
    return Entry(where=where, uri=uri, label=next(iter(classes), None), size=size, group=group, **found)


def _several(value: object, metadata: Row, name: str) -> list[str]:
    """Return the labels of an image that may have several."""
    if not isinstance(value, list):
        raise MalformedLineError(f"{name} is not a list of classes")
    return [_class(number, metadata) for number in value]


def _class(number: object, metadata: Row) -> str:
    names = metadata.get("class-map")
    if isinstance(number, bool) or not isinstance(number, int) or not isinstance(names, dict):
        raise MalformedLineError("a class is not a number of the class-map")
    if str(number) not in names:
        raise MalformedLineError(f"class {number} is not in the class-map")
    return required(names[str(number)], f"name of class {number}")


def _add_boxes(where: str, value: object, metadata: Row, regions: Regions) -> Size | None:
    """Return the size of the image. Raises MalformedLineError."""
    listed = value.get("annotations") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(listed, list):
        raise MalformedLineError("the value of a detection has no list `annotations`")
    for number, box in enumerate(listed):
        if not isinstance(box, dict):
            raise MalformedLineError(f"annotations[{number}] is not an object")
        label = _class(box.get("class_id"), metadata)
        regions.add(f"{where}, annotations[{number}]", label, partial(_box, box, label))
    sizes = value.get("image_size")
    stated = sizes[0] if isinstance(sizes, list) and sizes and isinstance(sizes[0], dict) else {}
    return size_of(stated.get("width"), stated.get("height"))


def _box(box: dict[str, Any], label: str) -> RawBox:
    left, top, width, height = (number_of(box.get(side), side) for side in SIDES)
    return box_of((left, top, left + width, top + height), label)
