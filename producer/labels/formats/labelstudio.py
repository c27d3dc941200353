"""Label Studio: the JSON export (a list of tasks). Each annotator's label counts.

The label of an image is a choice for the whole image, else it follows from the labelled regions, whatever their shape.
A choice about one region says nothing about the image. A task's image is s3://…, /data/local-files/?d=PATH or
/data/upload/…. The last two lie below --root: the folder that Label Studio serves, or its media folder. Predictions,
skipped and cancelled annotations are ignored.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from producer.labels.formats.entries import Entry, Options, Problems, Regions, Size, name_of, required, size_of, text_of
from producer.labels.formats.files import json_file
from producer.labels.formats.shapes import GEOMETRY, box_around
from producer.sources.manifest import MalformedLineError

IMAGE_FIELDS = ("image", "img", "url", "uri")
Result = dict[str, Any]


def is_labelstudio(body: object) -> bool:
    return isinstance(body, list) and bool(body) and isinstance(body[0], dict) and "annotations" in body[0]


def read_labelstudio(path: Path, options: Options, problems: Problems) -> list[Entry]:
    try:
        tasks = _tasks(path)
        control = _control(tasks, options.control)
    except MalformedLineError as error:
        problems.add("the file", str(error))
        return []
    found: list[Entry] = []
    for number, task in enumerate(tasks, start=1):
        try:
            found += _entries(f"task {number}", task, options, control, problems)
        except MalformedLineError as error:
            problems.leave_out(f"task {number}", str(error))
    return found


def _tasks(path: Path) -> list[Any]:
    body = json_file(path)
    if not isinstance(body, list):
        raise MalformedLineError("not a Label Studio export: it is not a list of tasks (export as JSON, not JSON-MIN)")
    return body


def _control(tasks: list[Any], wanted: str | None) -> str | None:
    """Return the control whose choices are labels. Raises MalformedLineError if it is not clear which."""
    found: set[str] = set()
    for task in tasks:
        for results in _results_of(task):
            found |= {str(one.get("from_name")) for one in _choices(results)}
    names = sorted(found)
    if wanted is not None and wanted not in names:
        raise MalformedLineError(f"no choice of the control {wanted!r} (--label-control; found: {', '.join(names)})")
    if wanted is None and len(names) > 1:
        raise MalformedLineError(f"choices of several controls ({', '.join(names)}): name one with --label-control")
    return wanted


def _results_of(task: object) -> list[list[Result]]:
    annotations = task.get("annotations") if isinstance(task, dict) else None
    lists = [one.get("result") for one in annotations or () if isinstance(one, dict) and not one.get("was_cancelled")]
    return [[one for one in some if isinstance(one, dict)] for some in lists if isinstance(some, list)]


def _choices(results: list[Result]) -> list[Result]:
    """Return the choices for the whole image."""
    regions = {str(one["id"]) for one in results if one.get("id") is not None and "choices" not in _value(one)}
    return [
        one
        for one in results
        if "choices" in (value := _value(one))
        and one.get("parentID") is None
        and str(one.get("id")) not in regions
        and not GEOMETRY & value.keys()
    ]


def _value(result: Result) -> dict[str, Any]:
    value = result.get("value")
    return value if isinstance(value, dict) else {}


def _entries(where: str, task: object, options: Options, control: str | None, problems: Problems) -> list[Entry]:
    """Return one entry per annotation. Raises MalformedLineError."""
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise MalformedLineError("not an object with `data`")
    annotations = task.get("annotations")
    if not isinstance(annotations, list):
        raise MalformedLineError("`annotations` is not a list (export as JSON, not JSON-MIN)")
    data = task["data"]
    uri = _image(data)
    group = text_of(data.get(options.group or "group"), "group")
    found: dict[str | None, Entry] = {}
    twice: set[str | None] = set()
    for annotation in annotations:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
            raise MalformedLineError("an annotation without a list `result`")
        if annotation.get("was_cancelled"):
            continue
        who = _annotator(annotation.get("completed_by"))
        fields = _result(where, annotation["result"], control, problems)
        entry = Entry(where=where, uri=uri, who=who, group=group, **fields)
        if found.setdefault(who, entry) != entry:
            twice.add(who)
    for who in twice:
        problems.leave_out(where, f"{who} has annotated it in several ways")
    return [entry for who, entry in found.items() if who not in twice]


def _image(data: dict[str, Any]) -> str:
    name = next((name for name in IMAGE_FIELDS if name in data), None)
    if name is None:
        raise MalformedLineError(f"`data` has no image (looked for {', '.join(IMAGE_FIELDS)})")
    text = name_of(data[name], name)
    address = urlsplit(text)
    if address.scheme in ("http", "https") and address.path.startswith("/data/"):  # a host may be configured
        text = text[text.index("/data/") :]
    if text.startswith("/data/local-files/"):
        return name_of(parse_qs(urlsplit(text).query).get("d", [None])[0], "path after ?d=")
    if text.startswith("/data/"):
        return unquote(text.removeprefix("/data/"))
    return text


def _result(where: str, results: list[Any], control: str | None, problems: Problems) -> dict[str, Any]:
    """Return the label, the regions and the size of an image, as fields of an entry. Raises MalformedLineError."""
    if not all(isinstance(one, dict) and (isinstance(one.get("value"), dict) or _relates(one)) for one in results):
        raise MalformedLineError("a result without `value`")
    choices = _choices(results)
    words = [
        word
        for one in choices
        if control is None or one.get("from_name") == control
        for word in _words(one["value"]["choices"], "choices")
    ]
    if len(set(words)) > 1:
        raise MalformedLineError(f"several choices for one image: {', '.join(words[:5])}")
    size, regions = _size(results), Regions(problems)
    for labels, value in _regions(results):
        for label in labels:
            regions.add(where, label, partial(box_around, value, label, size))
    found = regions.fields()
    choice = words[0] if words else None
    if choice is None and results and not any(found.values()):
        raise MalformedLineError("neither a choice for the whole image nor a labelled region")
    if not regions.boxes and (choice is not None or regions.bare):
        found["boxes"] = None
    return found | {"label": choice, "size": size}


def _relates(result: Result) -> bool:
    return result.get("type") == "relation"


def _regions(results: list[Result]) -> list[tuple[list[str], dict[str, Any]]]:
    """Return labels and shape of each region, whose parts share an id. Raises MalformedLineError without a label."""
    shapes: dict[object, dict[str, Any]] = {}
    for number, one in enumerate(results):
        value = _value(one)
        if "choices" not in value:
            key = number if one.get("id") is None else str(one["id"])
            shapes[key] = shapes.get(key, {}) | value
    found = []
    for value in shapes.values():
        kinds = [name for name in value if name.endswith("labels")]
        labels = [word for name in kinds for word in _words(value[name], name)]
        if labels:
            found.append((list(dict.fromkeys(labels)), value))
        elif kinds or GEOMETRY & value.keys():
            raise MalformedLineError("a region without a label")
    return found


def _size(results: list[Result]) -> Size | None:
    """Return the size at which the image was shown. Raises MalformedLineError if it was turned by hand."""
    found = set()
    for one in results:
        turn = one.get("image_rotation")
        if turn and not (isinstance(turn, int | float) and turn % 360 == 0):
            raise MalformedLineError(f"the annotator turned the image by {turn} degrees: image_rotation is not applied")
        found.add(size_of(one.get("original_width"), one.get("original_height")))
    found.discard(None)
    if len(found) > 1:
        raise MalformedLineError("its results state several sizes of the image")
    return next(iter(found), None)


def _words(value: object, what: str) -> list[str]:
    if not isinstance(value, list):
        raise MalformedLineError(f"{what} is not a list")
    return [required(word, what) for word in value]


def _annotator(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("email") or value.get("username") or value.get("id")
    who = text_of(value, "completed_by")
    return f"annotator {who}" if isinstance(value, int) else who
