"""The results of one annotation in Label Studio: label, regions, attributes and size of the image."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from scanfleet.producer.labels.formats.entries import Problems, Regions, Size, attributes_of, required, size_of
from scanfleet.producer.labels.formats.labelstudio.shapes import GEOMETRY, box_around, shape_of
from scanfleet.producer.sources.manifest import MalformedLineError

ANSWERS = ("choices", "text", "number", "rating", "datetime", "taxonomy")  # that are no region
Result = dict[str, Any]


def choices_of(results: list[Result]) -> list[Result]:
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


def read_results(where: str, results: list[Any], control: str | None, problems: Problems) -> dict[str, Any]:
    """Return the label, the regions, the attributes and the size of an image, as fields of an entry.

    Raises MalformedLineError.
    """
    if not all(isinstance(one, dict) and (isinstance(one.get("value"), dict) or _relates(one)) for one in results):
        raise MalformedLineError("a result without `value`")
    choices = choices_of(results)
    words = [
        word
        for one in choices
        if control is None or one.get("from_name") == control
        for word in _words(one["value"]["choices"], "choices")
    ]
    if len(set(words)) > 1:
        raise MalformedLineError(f"several choices for one image: {', '.join(words[:5])}")
    size, regions = _size(results), Regions(problems)
    said = _said(results, control)
    for key, labels, value in _regions(results):
        attributes = attributes_of(said.get(key), where, problems)
        for label in labels:
            regions.add(where, label, partial(box_around, value, label, size), attributes)
    found = regions.fields()
    choice = words[0] if words else None
    if choice is None and results and not any(found.values()):
        raise MalformedLineError("neither a choice for the whole image nor a labelled region")
    if not regions.boxes and (choice is not None or regions.bare):
        found["boxes"] = None
    return found | {"label": choice, "size": size, "attributes": attributes_of(said.get(None), where, problems)}


def _said(results: list[Result], control: str | None) -> dict[object, dict[str, Any]]:
    """Return what was answered about each region, and under None about the image, by the name of the control.

    The choice that is the image's label is none of these.
    """
    shaped = {str(one["id"]) for one in results if one.get("id") is not None and _is_region(_value(one))}
    whole = {id(one) for one in choices_of(results)}
    found: dict[object, dict[str, Any]] = {}
    for one in results:
        value = _value(one)
        kind = next((name for name in ANSWERS if name in value), None)
        name = str(one.get("from_name") or kind)
        if kind is None or (id(one) in whole and control in (None, name)):
            continue
        keys = [str(key) for key in (one.get("id"), one.get("parentID")) if str(key) in shaped]
        if not keys and id(one) not in whole and (one.get("parentID") is not None or GEOMETRY & value.keys()):
            continue  # of a region that is not there
        said = value[kind]
        if kind == "taxonomy" and isinstance(said, list):
            said = [" / ".join(map(str, path)) if isinstance(path, list) else path for path in said]
        found.setdefault(keys[0] if keys else None, {})[name] = said
    return found


def _is_region(value: dict[str, Any]) -> bool:
    return any(name.endswith("labels") for name in value)


def _relates(result: Result) -> bool:
    return result.get("type") == "relation"


def _regions(results: list[Result]) -> list[tuple[object, list[str], dict[str, Any]]]:
    """Return id, labels and shape of each region. Its parts, one a control, share the id and the shape.

    Raises MalformedLineError for one without a label.
    """
    parts: list[tuple[object, Result, dict[str, Any]]] = [
        (number if one.get("id") is None else str(one["id"]), one, value)
        for number, one in enumerate(results)
        if "choices" not in (value := _value(one))
    ]
    first: dict[object, str] = {}  # shape of an id, for parts that have none
    for key, _, value in parts:
        if GEOMETRY & value.keys():
            first.setdefault(key, shape_of(value))
    shapes: dict[tuple[object, str, int], dict[str, Any]] = {}
    seen: Counter[tuple[object, str, str]] = Counter()
    for key, one, value in parts:
        shape = shape_of(value) if GEOMETRY & value.keys() else first.get(key, "")
        kinds = {name for name in value if name.endswith("labels")}
        place = max((seen[key, shape, name] for name in kinds), default=0)  # ids may repeat
        seen.update((key, shape, name) for name in kinds)
        shapes[key, shape, place] = shapes.get((key, shape, place), {}) | value
        if str(one.get("type")).endswith("labels") and not _is_region(value):
            raise MalformedLineError("a region without a label")
    found: list[tuple[object, list[str], dict[str, Any]]] = []
    for (key, _, _), value in shapes.items():
        given = [name for name in value if name.endswith("labels")]
        labels = [word for name in given for word in _words(value[name], name)]
        if labels:
            found.append((key, list(dict.fromkeys(labels)), value))
        elif given or GEOMETRY & value.keys():
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
