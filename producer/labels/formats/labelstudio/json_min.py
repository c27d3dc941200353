"""JSON-MIN of Label Studio: a flat object per annotation, in which each control is a field beside those of the task.

A field with text may be a choice or a column of the task, so that only --label-control makes one the label. Regions
tell themselves by their shape. Without either, nothing was found only if no field could be an answer.
"""

from __future__ import annotations

from typing import Any

from scanfleet.producer.labels.formats.entries import Options
from scanfleet.producer.labels.formats.labelstudio.addresses import image_field
from scanfleet.producer.labels.formats.labelstudio.results import Result
from scanfleet.producer.labels.formats.labelstudio.shapes import GEOMETRY, shape_of
from scanfleet.producer.sources.manifest import MalformedLineError

OF_ANNOTATION = {"annotation_id", "annotator", "created_at", "updated_at", "lead_time"}
OWN = OF_ANNOTATION | {"id", "agreement", "history"}


def is_json_min(row: dict[str, Any]) -> bool:
    return "annotations" not in row and "data" not in row and row.keys() >= {"annotator", "annotation_id"}


def as_task(row: dict[str, Any], options: Options) -> dict[str, Any]:
    """Return a row as a task of the full export. Raises MalformedLineError if it does not tell what was found."""
    image = image_field(row, options)
    results: list[Result] = []
    unclear: list[str] = []
    for name, value in row.items():
        if name in OWN or name in (image, options.group or "group"):
            continue
        if name == options.control:
            results.append(_choice(name, value))
        elif regions := _regions(name, value):
            results += regions
        elif value not in (None, "", []):
            unclear.append(name)
    annotations = []
    if row.get("annotation_id") is not None:
        if not results and unclear:
            raise MalformedLineError(f"no region, and perhaps an answer in {unclear[0]!r}: name it by --label-control")
        annotations.append({"completed_by": row.get("annotator"), "result": results})
    return {"data": row, "annotations": annotations}


def _choice(name: str, value: object) -> Result:
    if isinstance(value, dict):
        value = value.get("choices")
    return {"from_name": name, "value": {"choices": value if isinstance(value, list) else [value]}}


def _regions(name: str, value: object) -> list[Result]:
    """Return the regions of a control; shapes that occur in several controls share an id."""
    if not isinstance(value, list) or not all(isinstance(one, dict) and _is_region(one) for one in value):
        return []
    found: list[Result] = []
    seen: dict[str, int] = {}
    for one in value:
        shape = shape_of(one)
        seen[shape] = seen.get(shape, 0) + 1
        size = {key: one[key] for key in ("original_width", "original_height") if key in one}
        found.append({"from_name": name, "id": f"{shape} {seen[shape]}", "value": one} | size)
    return found


def _is_region(value: dict[str, Any]) -> bool:
    return bool(GEOMETRY & value.keys()) or any(name.endswith("labels") for name in value)
