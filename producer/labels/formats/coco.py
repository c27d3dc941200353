"""COCO: one JSON file with images, annotations and categories (cocodataset.org/#format-data).

An image without annotations is one in which nothing was found, if the file has the list `annotations`. COCO has no
field for the label of a whole image, so an image may also have `label`, `who`, `group`, `note` and `drawn`, as our own
export writes them.
"""

from __future__ import annotations

from collections.abc import Container
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from producer.labels.formats.entries import (
    Entry,
    Options,
    Problems,
    RawBox,
    Regions,
    bounds,
    box_of,
    name_of,
    number_of,
    required,
    size_of,
    text_of,
)
from producer.labels.formats.files import json_file
from producer.sources.manifest import MalformedLineError

Found = dict[int, list[tuple[str, Any]]]  # image id -> its annotations, with their places in the file


def read_coco(path: Path, options: Options, problems: Problems) -> list[Entry]:
    try:
        body = _body(path, options)
    except MalformedLineError as error:
        problems.add("the file", str(error))
        return []
    names = _categories(body.get("categories", []), problems)
    images = _images(body["images"], problems)
    annotations = _annotations(body.get("annotations"), problems)
    ids = {image["id"] for image in body["images"] if isinstance(image, dict) and isinstance(image.get("id"), int)}
    for key in annotations.keys() - ids:
        problems.leave_out(annotations[key][0][0], f"image_id {key} does not exist")
    by_name: dict[str, list[int]] = {}
    for key, (_, image) in images.items():
        by_name.setdefault(image["file_name"], []).append(key)
    looked = body.get("annotations") is not None and annotations.keys() <= ids
    found = []
    for keys in by_name.values():  # an image that is listed twice has the annotations of both
        where = images[keys[0]][0]
        try:
            image = _once([images[key][1] for key in keys], options)
            some = _Annotations([one for key in keys for one in annotations.get(key, [])], names, looked)
            found.append(_entry(where, image, some, options, problems))
        except MalformedLineError as error:
            problems.leave_out(where, str(error))
    return found


class _Annotations(NamedTuple):
    """Those of one image, with their places in the file.

    looked: if there are none, nothing was found in the image. Not so if others are about images that are not listed.
    """

    listed: list[tuple[str, Any]]
    names: dict[int, str]  # of categories
    looked: bool


def _once(images: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    """Return the image that one or several entries are about. Raises MalformedLineError if these differ."""
    if any(image.get(name) != images[0].get(name) for image in images for name in (options.label, "width", "height")):
        raise MalformedLineError(f"{images[0]['file_name']} is listed with several labels or sizes")
    return images[0]


def _body(path: Path, options: Options) -> dict[str, Any]:
    body = json_file(path)
    if not isinstance(body, dict) or not isinstance(body.get("images"), list):
        raise MalformedLineError("not a COCO file: it has no list `images`")
    labelled = any(isinstance(image, dict) and image.get(options.label) for image in body["images"])
    if body.get("annotations") is None and not labelled:
        raise MalformedLineError("it has no list `annotations`, so nobody labelled its images")
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
            key = _id(category, "id", but=names)
            names[key] = required(category.get("name"), "name")
        except MalformedLineError as error:
            problems.add(f"categories[{number}]", str(error))
    return names


def _images(images: list[Any], problems: Problems) -> dict[int, tuple[str, dict[str, Any]]]:
    """Return by id the images and their places. Annotations of an id that occurs twice belong to neither image."""
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    twice: set[int] = set()
    for number, image in enumerate(images):
        where = f"images[{number}]"
        try:
            key = _id(image, "id")
            if key in found:
                twice.add(key)
            key = _id(image, "id", but=found)
            found[key] = (where, image | {"file_name": name_of(image.get("file_name"), "file_name")})
        except MalformedLineError as error:
            problems.leave_out(where, str(error))
    return {key: image for key, image in found.items() if key not in twice}


def _annotations(value: object, problems: Problems) -> Found:
    found: Found = {}
    if value is None:
        return found
    for number, annotation in enumerate(_listed(value, "annotations", problems)):
        where = f"annotations[{number}]"
        try:
            image = _id(annotation, "image_id")
        except MalformedLineError as error:  # it may belong to any image, also to one that seems to have none
            problems.add(where, str(error))
            continue
        found.setdefault(image, []).append((where, annotation))
    return found


def _entry(where: str, image: dict[str, Any], annotations: _Annotations, options: Options, problems: Problems) -> Entry:
    """Raises MalformedLineError."""
    regions, whole = Regions(problems), set()
    for place, annotation in annotations.listed:
        category = _id(annotation, "category_id", where=f"{place}: ")
        if category not in annotations.names:
            raise MalformedLineError(f"{place}: category_id {category} does not exist")
        label = annotations.names[category]
        if annotation.get("bbox") in (None, []) and not annotation.get("segmentation"):
            whole.add(label)
        else:
            regions.add(place, label, partial(_box, annotation, label))
    if len(whole) > 1:
        raise MalformedLineError(f"annotations without a box name several categories: {', '.join(sorted(whole)[:5])}")
    named = text_of(image.get(options.label), "label", default=next(iter(whole), None))
    if named is None and not annotations.listed and not annotations.looked:
        raise MalformedLineError(f"{image['file_name']} has no annotations, and others have no image: is it theirs?")
    found = regions.fields()
    if not regions.boxes and (named is not None or regions.bare or options.label in image):
        found["boxes"] = None
    return Entry(
        where=where,
        uri=image["file_name"],
        label=named,
        size=size_of(image.get("width"), image.get("height")),
        who=text_of(image.get("who"), "who"),
        group=text_of(image.get(options.group or "group"), "group"),
        note=text_of(image.get("note"), "note"),
        drawn=text_of(image.get("drawn"), "drawn"),
        **found,
    )


def _box(annotation: dict[str, Any], label: str) -> RawBox | None:
    """Parse `bbox`: left, top, width, height in pixels from the corner of the image; else the bounds of polygons."""
    value = annotation.get("bbox")
    if value is None or value == []:
        polygons = annotation["segmentation"]
        if not isinstance(polygons, list):  # run lengths
            return None
        if not all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in polygons):
            raise MalformedLineError("segmentation is not a list of polygons")
        numbers = [number_of(side, "segmentation") for polygon in polygons for side in polygon]
        return bounds(zip(numbers[::2], numbers[1::2], strict=True), label)
    if not isinstance(value, list) or len(value) != 4:
        raise MalformedLineError("bbox is not a list of four numbers")
    x, y, width, height = (number_of(side, "bbox") for side in value)
    return box_of((x, y, x + width, y + height), label)


def _id(value: object, name: str, *, but: Container[int] = (), where: str = "") -> int:
    """Raises MalformedLineError."""
    found = value.get(name) if isinstance(value, dict) else None
    if isinstance(found, bool) or not isinstance(found, int):
        raise MalformedLineError(f"{where}`{name}` is missing or not a whole number")
    if found in but:
        raise MalformedLineError(f"{name} {found} occurs twice")
    return found
