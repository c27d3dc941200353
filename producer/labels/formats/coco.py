"""COCO: one JSON file with images, annotations and categories (cocodataset.org/#format-data).

An image without annotations is one in which nothing was found, if the file has the list `annotations`. COCO has no
field for the label of a whole image, so an image may also have `label`, `who`, `group`, `note`, `drawn` and
`attributes`, as our own export writes them. An annotation may have `attributes`, as those of CVAT do.

The file is read twice, part by part: images and categories first, since annotations often stand before them. Of an
annotation only its box stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from scanfleet.producer.labels.formats.entries import (
    Entry,
    Options,
    Problems,
    RawBox,
    Regions,
    Size,
    attributes_of,
    bounds,
    box_of,
    name_of,
    number_of,
    required,
    size_of,
    text_of,
)
from scanfleet.producer.labels.formats.parsing.files import rereadable
from scanfleet.producer.labels.formats.parsing.json_parts import LISTED, parts_of
from scanfleet.producer.labels.formats.turning import ROTATION, taken_rotation, turned
from scanfleet.producer.sources.manifest import MalformedLineError

KEPT = ("width", "height", "who", "note", "drawn", "attributes")  # fields of an image, beside name, label and group


@dataclass
class _Image:
    """An image, perhaps listed several times. whole: labels of annotations without a box."""

    where: str
    fields: dict[str, Any]
    regions: Regions
    whole: set[str] = field(default_factory=set)
    annotated: bool = False
    wrong: str | None = None


@dataclass
class _File:
    """What is found in a file. lists: its fields that are lists. strange: ids of images that
    it does not list; None: an annotation has none."""

    images: dict[int, _Image] = field(default_factory=dict)
    by_name: dict[str, _Image] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)
    strange: set[int | None] = field(default_factory=set)


def read_coco(path: Path, options: Options, problems: Problems) -> list[Entry]:
    with rereadable(path) as file:
        try:
            found = _images(file, options, problems)
            _add_annotations(file, found, problems)
        except MalformedLineError as error:
            problems.add("the file", str(error))
            return []
    entries = []
    looked = "annotations" in found.lists and not found.strange
    for image in found.by_name.values():
        try:
            entries.append(_entry(image, options, problems, looked=looked))
        except MalformedLineError as error:
            problems.leave_out(image.where, str(error))
    return entries


def _images(path: Path, options: Options, problems: Problems) -> _File:
    """Raises MalformedLineError."""
    found = _File()
    is_object = labelled = False
    for key, number, value in parts_of(path):
        is_object |= key is not None
        if number == LISTED and key is not None:
            found.lists.add(key)
        elif key in ("categories", "annotations") and number is None and value is not None:
            problems.add("the file", f"`{key}` is not a list")
        elif key == "categories" and number is not None:
            _add_category(f"categories[{number}]", value, found, problems)
        elif key == "images" and number is not None:
            _add_image(f"images[{number}]", value, found, options, problems)
            labelled |= isinstance(value, dict) and bool(value.get(options.label))
    if not is_object or "images" not in found.lists:
        raise MalformedLineError("not a COCO file: it has no list `images`")
    if "annotations" not in found.lists and not labelled:
        raise MalformedLineError("it has no list `annotations`, so nobody labelled its images")
    return found


def _add_category(where: str, value: object, found: _File, problems: Problems) -> None:
    try:
        key = _id(value, "id")
        name = required(value.get("name") if isinstance(value, dict) else None, "name")
        if found.categories.setdefault(key, name) != name:
            problems.add(where, f"id {key} occurs twice, as {found.categories[key]} and {name}")
    except MalformedLineError as error:  # annotations that name it are left out
        problems.leave_out(where, str(error))


def _add_image(where: str, value: object, found: _File, options: Options, problems: Problems) -> None:
    """Add an image. Annotations of an id that occurs twice belong to neither image."""
    try:
        key = _id(value, "id")
        name = name_of(value.get("file_name") if isinstance(value, dict) else None, "file_name")
    except MalformedLineError as error:
        problems.leave_out(where, str(error))
        return
    assert isinstance(value, dict)
    fields = {name: value[name] for name in (*KEPT, options.label, options.group or "group") if name in value}
    fields["file_name"] = name
    image = found.by_name.setdefault(name, _Image(where, fields, Regions(problems)))
    if any(image.fields.get(name) != fields.get(name) for name in (options.label, "width", "height")):
        image.wrong = f"{name} is listed with several labels or sizes"
    if key in found.images:
        image.wrong = found.images[key].wrong = f"id {key} occurs twice ({found.images[key].where}, {where})"
    found.images.setdefault(key, image)


def _add_annotations(path: Path, found: _File, problems: Problems) -> None:
    for where, value in _annotations(path):
        try:
            key = _id(value, "image_id")
        except MalformedLineError as error:  # it may belong to any image, also to one that seems to have none
            problems.leave_out(where, str(error))
            found.strange.add(None)
            continue
        image = found.images.get(key)
        if image is None:
            if key not in found.strange:
                problems.leave_out(where, f"image_id {key} does not exist")
            found.strange.add(key)
            continue
        image.annotated = True
        try:
            _add_annotation(where, value, image, found.categories, problems)
        except MalformedLineError as error:
            image.wrong = image.wrong or f"{where}: {error}"


def _annotations(path: Path) -> Iterator[tuple[str, Any]]:
    for key, number, value in parts_of(path):
        if key == "annotations" and number is not None and number != LISTED:
            yield f"annotations[{number}]", value


def _add_annotation(
    where: str, value: dict[str, Any], image: _Image, categories: dict[int, str], problems: Problems
) -> None:
    """Raises MalformedLineError."""
    category = _id(value, "category_id")
    if category not in categories:
        raise MalformedLineError(f"category_id {category} does not exist")
    label = categories[category]
    if value.get("bbox") in (None, []) and not value.get("segmentation"):
        image.whole.add(label)
    else:
        given = attributes_of(said := value.get("attributes"), where, problems)
        is_number = isinstance(said, dict) and not isinstance(said.get(ROTATION), str)  # our own export writes texts
        degrees = taken_rotation(given) if is_number and not value.get("segmentation") else 0.0
        size = size_of(image.fields.get("width"), image.fields.get("height"))
        image.regions.add(where, label, partial(_box, value, label, degrees, size), given)


def _entry(image: _Image, options: Options, problems: Problems, *, looked: bool) -> Entry:
    """Return the entry of an image. looked: if it has no annotations, nothing was found in it.

    Not so if others are about images that are not listed. Raises MalformedLineError.
    """
    fields, whole = image.fields, image.whole
    if image.wrong is not None:
        raise MalformedLineError(image.wrong)
    if len(whole) > 1:
        raise MalformedLineError(f"annotations without a box name several categories: {', '.join(sorted(whole)[:5])}")
    seen = {box.label for box in image.regions.boxes} | {*image.regions.bare, *image.regions.dropped}
    if whole and seen and not whole <= seen:
        raise MalformedLineError(f"an annotation without a box says {next(iter(whole))}, and others {min(seen)}")
    named = text_of(fields.get(options.label), "label", default=None if seen else next(iter(whole), None))
    if named is None and not image.annotated and not looked:
        raise MalformedLineError(f"{fields['file_name']} has no annotations, and others have no image: is it theirs?")
    found = image.regions.fields()
    if not image.regions.boxes and (named is not None or image.regions.bare or options.label in fields):
        found["boxes"] = None
    return Entry(
        where=image.where,
        uri=fields["file_name"],
        label=named,
        size=size_of(fields.get("width"), fields.get("height")),
        who=text_of(fields.get("who"), "who"),
        group=text_of(fields.get(options.group or "group"), "group"),
        note=text_of(fields.get("note"), "note"),
        drawn=text_of(fields.get("drawn"), "drawn"),
        attributes=attributes_of(fields.get("attributes"), image.where, problems),
        **found,
    )


def _box(annotation: dict[str, Any], label: str, degrees: float, size: Size | None) -> RawBox | None:
    """Parse `bbox`: left, top, width, height in pixels from the corner of the image; else the bounds of polygons.

    degrees: how far the box is turned.
    """
    value, polygons = annotation.get("bbox"), annotation.get("segmentation")
    flat = isinstance(value, list) and len(value) == 4 and 0 in value[2:]
    if value is None or value == [] or (flat and isinstance(polygons, list) and polygons):
        if not isinstance(polygons, list):  # run lengths
            return None
        if not all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in polygons):
            raise MalformedLineError("segmentation is not a list of polygons")
        numbers = [number_of(side, "segmentation") for polygon in polygons for side in polygon]
        if not numbers:
            raise MalformedLineError("segmentation has no points")
        return bounds(zip(numbers[::2], numbers[1::2], strict=True), label)
    if not isinstance(value, list) or len(value) != 4:
        raise MalformedLineError("bbox is not a list of four numbers")
    x, y, width, height = (number_of(side, "bbox") for side in value)
    return turned(box_of((x, y, x + width, y + height), label), degrees, size)


def _id(value: object, name: str) -> int:
    """Raises MalformedLineError."""
    found = value.get(name) if isinstance(value, dict) else None
    if isinstance(found, bool) or not isinstance(found, int):
        raise MalformedLineError(f"`{name}` is missing or not a whole number")
    return found
