"""Tasks for Label Studio: an image, with annotations or predictions of its label, its boxes and their attributes.

The project needs a control `verdict` (Choices) and a control `label` (RectangleLabels) on an image `image`. Files are
named as Label Studio serves them: `/data/local-files/?d=PATH` below its document root, which is / by default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any
from urllib.parse import quote_from_bytes

from scanfleet.db.results.results import Result
from scanfleet.storage.file_uri import uri_to_path
from scanfleet.storage.s3.uri import is_s3

IMAGE, VERDICT, LABEL = "image", "verdict", "label"
SIDES = (("x", "x0", None), ("y", "y0", None), ("width", "x1", "x0"), ("height", "y1", "y0"))
Boxes = Sequence[Mapping[str, Any]]


def write_tasks(tasks: Iterable[Mapping[str, Any]], file: IO[bytes]) -> int:
    """Write a list of tasks, and return their number."""
    n = 0
    file.write(b"[")
    for n, task in enumerate(tasks, start=1):
        text = json.dumps(task, ensure_ascii=False, allow_nan=False)
        file.write(f"{',' if n > 1 else ''}\n{text}".encode())
    file.write(b"\n]\n")
    return n


def address_of(uri: str, root: bytes = b"/") -> str | None:
    """Return the address of an image in Label Studio; None for a file that is not below its document root."""
    if is_s3(uri):
        return uri
    path, folder = uri_to_path(uri), root.rstrip(b"/") + b"/"
    return f"/data/local-files/?d={quote_from_bytes(path[len(folder) :])}" if path.startswith(folder) else None


def results_of(
    label: str | None, boxes: Boxes | None, size: tuple[int, int], attributes: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return label, boxes and attributes as results of an annotation. size: of the upright image, in pixels."""
    frame = {"to_name": IMAGE, "original_width": size[0], "original_height": size[1], "image_rotation": 0}
    found = []
    if label is not None:
        found.append({"from_name": VERDICT, "type": "choices", "value": {"choices": [label]}})
    found += [_text(name, text, {}) for name, text in (attributes or {}).items()]
    for number, box in enumerate(boxes or (), start=1):
        place = {"id": f"box{number}"}
        sides = {name: _percent(box, first, less, size) for name, first, less in SIDES} | {"rotation": 0}
        labelled = {"from_name": LABEL, "type": "rectanglelabels", "value": sides | {"rectanglelabels": [box["label"]]}}
        found.append(place | labelled)
        found += [place | _text(name, text, sides) for name, text in (box.get("attributes") or {}).items()]
    return [one | frame for one in found]


def _percent(box: Mapping[str, Any], side: str, less: str | None, size: tuple[int, int]) -> float:
    length = box[side] - (box[less] if less else 0)
    return round(100 * length / size[0 if side.startswith("x") else 1], 8)


def _text(name: str, text: str, sides: Mapping[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "type": "textarea", "value": {**sides, "text": [text]}}


def task_of_result(result: Result) -> dict[str, Any] | None:
    """Return a task with the answer as a prediction; None if there is no answer."""
    if result.state != "verdict" or result.width is None or result.height is None:
        return None
    size = result.width, result.height
    return task_of(
        result.uri,
        results_of(result.label, result.boxes, size),
        version=None if result.scorer is None else f"{result.scorer.base_model} {result.scorer.adapter or ''}".strip(),
        score=result.score,
        data={"scan": result.scan, "decision": result.decision, "content_sha256": result.content_sha256},
    )


def task_of(
    uri: str, results: list[dict[str, Any]], *, version: str | None, score: float | None, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a task with a prediction."""
    prediction: dict[str, Any] = {"result": results}
    prediction |= {} if version is None else {"model_version": version}
    prediction |= {} if score is None else {"score": score}
    return {"data": {IMAGE: address_of(uri) or uri, **data}, "predictions": [prediction]}
