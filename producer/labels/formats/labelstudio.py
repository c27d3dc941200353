"""Label Studio: the JSON export (a list of tasks) with `choices` and `rectanglelabels`. Each annotator's label counts.

A task's image is s3://…, /data/local-files/?d=PATH or /data/upload/…. The last two lie below --root: the folder that
Label Studio serves, or its media folder. Predictions, skipped and cancelled annotations are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from producer.labels.formats.entries import Entry, Options, Problems, RawBox, box_of, number_of, required, text_of
from producer.labels.formats.files import json_file
from producer.sources.manifest import MalformedLineError

IMAGE_FIELDS = ("image", "img", "url", "uri")


def is_labelstudio(body: object) -> bool:
    return isinstance(body, list) and bool(body) and isinstance(body[0], dict) and "annotations" in body[0]


def read_labelstudio(path: Path, options: Options, problems: Problems) -> list[Entry]:
    try:
        tasks = _tasks(path)
    except MalformedLineError as error:
        problems.add("the file", str(error))
        return []
    found: list[Entry] = []
    for number, task in enumerate(tasks):
        try:
            found += _entries(number, task, options)
        except MalformedLineError as error:
            problems.add(f"task {number + 1}", str(error))
    return found


def _tasks(path: Path) -> list[Any]:
    body = json_file(path)
    if not isinstance(body, list):
        raise MalformedLineError("not a Label Studio export: it is not a list of tasks (export as JSON, not JSON-MIN)")
    return body


def _entries(number: int, task: object, options: Options) -> list[Entry]:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise MalformedLineError("not an object with `data`")
    annotations = task.get("annotations")
    if not isinstance(annotations, list):
        raise MalformedLineError("`annotations` is not a list (export as JSON, not JSON-MIN)")
    data = task["data"]
    uri = _image(data)
    group = text_of(data.get(options.group or "group"), "group")
    found = []
    for annotation in annotations:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
            raise MalformedLineError("an annotation without a list `result`")
        if annotation.get("was_cancelled"):
            continue
        label, boxes = _result(annotation["result"])
        found.append(
            Entry(
                where=f"task {number + 1}",
                uri=uri,
                label=label,
                boxes=boxes if boxes or label is None else None,
                who=_annotator(annotation.get("completed_by")),
                group=group,
            )
        )
    return found


def _image(data: dict[str, Any]) -> str:
    name = next((name for name in IMAGE_FIELDS if name in data), None)
    if name is None:
        raise MalformedLineError(f"`data` has no image (looked for {', '.join(IMAGE_FIELDS)})")
    text = required(data[name], name)
    if text.startswith("/data/local-files/"):
        return required(parse_qs(urlsplit(text).query).get("d", [None])[0], "path after ?d=")
    if text.startswith("/data/"):
        return unquote(text.removeprefix("/data/"))
    return text


def _result(results: list[Any]) -> tuple[str | None, tuple[RawBox, ...]]:
    """Return the choice for the whole image, and the boxes."""
    choices: list[str] = []
    boxes: list[RawBox] = []
    for result in results:
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            raise MalformedLineError("a result without `value`")
        if "choices" in value:
            choices += _words(value["choices"], "choices")
        elif "rectanglelabels" in value:
            boxes += [_box(value, label) for label in _words(value["rectanglelabels"], "rectanglelabels")]
    if len(set(choices)) > 1:
        raise MalformedLineError(f"several choices for one image: {', '.join(choices[:5])}")
    return choices[0] if choices else None, tuple(boxes)


def _words(value: object, what: str) -> list[str]:
    if not isinstance(value, list):
        raise MalformedLineError(f"{what} is not a list")
    return [required(word, what) for word in value]


def _box(value: dict[str, Any], label: str) -> RawBox:
    """Parse a box in percent of the image's size. A rotated rectangle is refused, since a box has no angle."""
    if number_of(value.get("rotation", 0), "rotation") != 0:
        raise MalformedLineError("a rotated rectangle: boxes cannot be rotated")
    x, y, width, height = (number_of(value.get(side), side) / 100 for side in ("x", "y", "width", "height"))
    return box_of((x, y, x + width, y + height), label, unit="share")


def _annotator(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("email") or value.get("username") or value.get("id")
    who = text_of(value, "completed_by")
    return f"annotator {who}" if isinstance(value, int) else who
