"""Label Studio: the JSON export (a list of tasks), and JSON-MIN. Each annotator's label counts.

The label of an image is a choice for the whole image, else it follows from the labelled regions, whatever their shape.
A choice about one region says nothing about the image; it is an attribute of the region, as texts and numbers are. A
task's image is s3://…, an address of an object in S3, /data/local-files/?d=PATH or /data/upload/…. The last two lie
below --root: the folder that Label Studio serves, or its media folder. Predictions, skipped and cancelled annotations
are ignored. The file is read twice, task by task.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scanfleet.producer.labels.formats.entries import Entry, Options, Problems, text_of
from scanfleet.producer.labels.formats.labelstudio.addresses import image_field, image_of
from scanfleet.producer.labels.formats.labelstudio.json_min import as_task, is_json_min
from scanfleet.producer.labels.formats.labelstudio.results import Result, choices_of, read_results
from scanfleet.producer.labels.formats.parsing.files import rereadable
from scanfleet.producer.labels.formats.parsing.json_parts import parts_of
from scanfleet.producer.sources.manifest import MalformedLineError


def is_labelstudio(first: object) -> bool:
    """Return True if a task begins the list."""
    return isinstance(first, dict) and ("annotations" in first or is_json_min(first))


def read_labelstudio(path: Path, options: Options, problems: Problems) -> list[Entry]:
    found: list[Entry] = []
    with rereadable(path) as file:
        try:
            control = _control(file, options.control)
            for number, task in _tasks(file):
                try:
                    found += _entries(f"task {number}", task, options, control, problems)
                except MalformedLineError as error:
                    problems.leave_out(f"task {number}", str(error))
        except MalformedLineError as error:
            problems.add("the file", str(error))
    return found


def _tasks(path: Path) -> Iterator[tuple[int, Any]]:
    for key, number, value in parts_of(path):
        if key is not None or number is None:
            raise MalformedLineError("not a Label Studio export: it is not a list of tasks")
        yield number + 1, value


def _control(path: Path, wanted: str | None) -> str | None:
    """Return the control whose choices are labels. Raises MalformedLineError if it is not clear which."""
    found: set[str] = set()
    for _, task in _tasks(path):
        if isinstance(task, dict) and is_json_min(task):
            found |= {wanted} & task.keys() if wanted is not None else set()
        for results in _results_of(task):
            found |= {str(one.get("from_name")) for one in choices_of(results)}
    names = sorted(found)
    if wanted is not None and wanted not in names:
        raise MalformedLineError(f"no choice of the control {wanted!r} (--label-control; found: {', '.join(names)})")
    if wanted is None and len(names) > 1:
        raise MalformedLineError(f"choices of several controls ({', '.join(names)}): name one with --label-control")
    return wanted


def _results_of(task: object) -> list[list[Result]]:
    annotations = task.get("annotations") if isinstance(task, dict) else None
    some = annotations if isinstance(annotations, list) else []
    lists = [one.get("result") for one in some if isinstance(one, dict) and not _skipped(one)]
    return [[one for one in some if isinstance(one, dict)] for some in lists if isinstance(some, list)]


def _entries(where: str, task: object, options: Options, control: str | None, problems: Problems) -> list[Entry]:
    """Return one entry per annotation, a blank one if nobody answered. Raises MalformedLineError."""
    if isinstance(task, dict) and is_json_min(task):
        task = as_task(task, options)
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise MalformedLineError("not an object with `data`")
    annotations = task.get("annotations")
    if not isinstance(annotations, list):
        raise MalformedLineError("`annotations` is not a list")
    data = task["data"]
    uri = image_of(data, options)
    group = text_of(data.get(options.group or "group"), "group")
    drawn = text_of(data.get("drawn"), "drawn")
    found: dict[str | None, Entry] = {}
    twice: set[str | None] = set()
    for annotation in annotations:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
            raise MalformedLineError("an annotation without a list `result`")
        if _skipped(annotation):
            continue
        _require_subject(annotation["result"], data, image_field(data, options))
        who = _annotator(annotation.get("completed_by"))
        fields = read_results(where, annotation["result"], control, problems)
        if annotation.get("completed_by") is None:  # as our own export writes it
            who, fields["note"] = text_of(data.get("who"), "who"), text_of(data.get("note"), "note")
        entry = Entry(where=where, uri=uri, who=who, group=group, drawn=drawn, **fields)
        if found.setdefault(who, entry) != entry:
            twice.add(who)
    for who in twice:
        problems.leave_out(where, f"{who} has annotated it in several ways")
    if not found:
        return [Entry(where=where, uri=uri, label=None, blank=True)]
    return [entry for who, entry in found.items() if who not in twice]


def _skipped(annotation: dict[str, Any]) -> bool:
    """Return True if the annotator gave no answer. `skipped` is what older exports call it."""
    return bool(annotation.get("was_cancelled") or annotation.get("skipped"))


def _require_subject(results: list[Any], data: dict[str, Any], field: str) -> None:
    """Raises MalformedLineError if results are about another picture of the task than this field's, or several."""
    named = {str(one["to_name"]) for one in results if isinstance(one, dict) and one.get("to_name") is not None}
    if len(named) > 1:
        raise MalformedLineError(f"its results are about several things: {', '.join(sorted(named)[:5])}")
    if any(name in data and name != field for name in named):
        raise MalformedLineError(f"its results are about {min(named)!r}, not {field!r}: --uri-column names the field")


def _annotator(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("email") or value.get("username") or value.get("id")
    who = text_of(value, "completed_by")
    return f"annotator {who}" if isinstance(value, int) else who
