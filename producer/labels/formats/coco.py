"""COCO: one JSON file with images, annotations and categories (cocodataset.org/#format-data).

An image without annotations is one in which nothing was found. COCO has no field for the label of a whole image, so an
image may also have `label`, `who`, `group`, `note` and `drawn`, as our own export writes them.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from producer.labels.formats.entries import Entry, Options, Problems, RawBox, box_of, number_of, required, text_of
from producer.labels.formats.files import json_file
from producer.sources.manifest import MalformedLineError


def read_coco(path: Path, options: Options, problems: Problems) -> list[Entry]:
    try:
        body = _body(path)
    except MalformedLineError as error:
        problems.add("the file", str(error))
        return []
    names = _categories(body.get("categories", []), problems)
    boxes = _annotations(body.get("annotations", []), names, _ids(body["images"]), problems)
    return _images(body["images"], boxes, options, problems)


def _body(path: Path) -> dict[str, Any]:
    body = json_file(path)
    if not isinstance(body, dict) or not isinstance(body.get("images"), list):
        raise MalformedLineError("not a COCO file: it has no list `images`")
    return body


def _listed(value: object, what: str, problems: Problems) -> list[Any]:
    if isinstance(value, list):
        return value
    problems.add("the file", f"`{what}` is not a list")
    return []


def _categories(value: object, problems: Problems) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, category in enumerate(_listed(value, "categories", problems)):
        try:
            key = _id(category, "id")
            names[key] = required(category.get("name"), "name")
        except MalformedLineError as error:
            problems.add(f"categories[{number}]", str(error))
    return names


def _annotations(
    value: object, names: dict[int, str], images: set[int], problems: Problems
) -> dict[int, list[RawBox | str]]:
    """Return by image id its boxes, or the category alone for an annotation without a box."""
    found: dict[int, list[RawBox | str]] = {}
    for number, annotation in enumerate(_listed(value, "annotations", problems)):
        try:
            image = _id(annotation, "image_id", among=images)
            category = _id(annotation, "category_id", among=names)
            found.setdefault(image, []).append(_box(annotation.get("bbox"), names[category]))
        except MalformedLineError as error:
            problems.add(f"annotations[{number}]", str(error))
    return found


def _box(value: object, label: str) -> RawBox | str:
    """Parse `bbox`: left, top, width, height in pixels from the corner of the image."""
    if value is None or value == []:
        return label
    if not isinstance(value, list) or len(value) != 4:
        raise MalformedLineError("bbox is not a list of four numbers")
    x, y, width, height = (number_of(side, "bbox") for side in value)
    return box_of((x, y, x + width, y + height), label)


def _images(
    images: list[Any], boxes: dict[int, list[RawBox | str]], options: Options, problems: Problems
) -> list[Entry]:
    found: dict[int, Entry] = {}
    for number, image in enumerate(images):
        where = f"images[{number}]"
        try:
            key = _id(image, "id", but=found)
            found[key] = _entry(where, image, boxes.get(key, []), options)
        except MalformedLineError as error:
            problems.add(where, str(error))
    return list(found.values())


def _entry(where: str, image: dict[str, Any], annotations: list[RawBox | str], options: Options) -> Entry:
    bare = sorted({one for one in annotations if isinstance(one, str)})
    boxes = tuple(one for one in annotations if isinstance(one, RawBox))
    if len(bare) > 1:
        raise MalformedLineError(f"annotations without a box name several categories: {', '.join(bare[:5])}")
    return Entry(
        where=where,
        uri=required(image.get("file_name"), "file_name"),
        label=text_of(image.get(options.label), "label", default=bare[0] if bare else None),
        boxes=None if not boxes and (bare or options.label in image) else boxes,
        who=text_of(image.get("who"), "who"),
        group=text_of(image.get(options.group or "group"), "group"),
        note=text_of(image.get("note"), "note"),
        drawn=text_of(image.get("drawn"), "drawn"),
    )


def _ids(images: list[Any]) -> set[int]:
    return {image["id"] for image in images if isinstance(image, dict) and isinstance(image.get("id"), int)}


def _id(value: object, name: str, *, among: Container[int] | None = None, but: Container[int] = ()) -> int:
    """Raises MalformedLineError."""
    found = value.get(name) if isinstance(value, dict) else None
    if isinstance(found, bool) or not isinstance(found, int):
        raise MalformedLineError(f"`{name}` is missing or not a whole number")
    if among is not None and found not in among:
        raise MalformedLineError(f"{name} {found} does not exist")
    if found in but:
        raise MalformedLineError(f"{name} {found} occurs twice")
    return found
