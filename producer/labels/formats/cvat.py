"""CVAT for images 1.1: one XML file with an element per image, and in it one per shape (docs.cvat.ai, formats).

The label of an image is that of a tag, else it follows from its shapes: boxes, also turned ones, polygons, ellipses,
masks and cuboids give the box around them; polylines, points and skeletons only their label. An image without any is
one in which nothing was found. Tracks (CVAT for video) are refused, since they name no files.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from scanfleet.producer.labels.formats.entries import (
    Attributes,
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
)
from scanfleet.producer.labels.formats.parsing.xml_tree import Element, root_of_xml
from scanfleet.producer.labels.formats.turning import ROTATION, turned
from scanfleet.producer.sources.manifest import MalformedLineError

ROOT = "annotations"  # the outermost element
BOX = ("xtl", "ytl", "xbr", "ybr")
MASK = ("left", "top", "width", "height")
ELLIPSE = ("cx", "cy", "rx", "ry")
WITHOUT_BOX = {"polyline", "points", "skeleton"}


def read_cvat(path: Path, _options: Options, problems: Problems) -> list[Entry]:
    try:
        root = _root(path)
    except MalformedLineError as error:
        problems.add("the file", str(error))
        return []
    origins: dict[str | None, set[tuple[str | None, str | None]]] = {}
    for image in root.iterfind("image"):
        origins.setdefault(image.get("name"), set()).add((image.get("task_id"), image.get("subset")))
    found = []
    for number, image in enumerate(root.iterfind("image"), start=1):
        where = f"image {number}"
        try:
            _require_one_origin(image, origins[image.get("name")])
            found.append(_entry(where, image, problems))
        except MalformedLineError as error:
            problems.leave_out(where, str(error))
    return found


def _require_one_origin(image: Element, origins: Collection[object]) -> None:
    """Raises MalformedLineError if tasks of a project have different images of this name."""
    if len(origins) > 1:
        raise MalformedLineError(f"{len(origins)} tasks or subsets have an image {str(image.get('name'))[:200]}")


def _root(path: Path) -> Element:
    """Raises MalformedLineError."""
    root = root_of_xml(path)
    if root.tag != ROOT:
        raise MalformedLineError(f"not a CVAT file: it starts with <{root.tag[:40]}>")
    if root.find("track") is not None:
        raise MalformedLineError("tracks of a video name no files: export as CVAT for images")
    return root


def _entry(where: str, image: Element, problems: Problems) -> Entry:
    uri = name_of(image.get("name"), "name")
    if any((words or "").strip() for words in (image.text, *(shape.tail for shape in image))):
        raise MalformedLineError("there is text between its shapes")
    size = size_of(image.get("width"), image.get("height"))
    regions = Regions(problems)
    tags: set[str] = set()
    given: Attributes = {}
    for number, shape in enumerate(image, start=1):
        place = f"{where}, {shape.tag} {number}"
        label = required(shape.get("label"), f"label of {shape.tag} {number}")
        attributes = _attributes(shape, place, problems)
        if shape.tag == "tag":
            tags.add(label)
            given |= attributes or {}
        else:
            regions.add(place, label, partial(_box, shape, label, size), attributes)
    if len(tags) > 1:
        raise MalformedLineError(f"tagged with several labels: {', '.join(sorted(tags)[:5])}")
    found = regions.fields()
    if not regions.boxes and (tags or regions.bare):
        found["boxes"] = None
    return Entry(where=where, uri=uri, label=next(iter(tags), None), size=size, attributes=given or None, **found)


def _attributes(shape: Element, where: str, problems: Problems) -> Attributes | None:
    given = {str(one.get("name") or ""): one.text for one in shape.iterfind("attribute")}
    if shape.get("occluded") == "1":
        given.setdefault("occluded", "true")
    return attributes_of(given, where, problems) if given else None


def _box(shape: Element, label: str, size: Size | None) -> RawBox | None:
    """Return the box around a shape in pixels. Raises MalformedLineError, also for a shape that is not known."""
    if shape.tag in WITHOUT_BOX:
        return None
    if shape.tag == "box":
        x0, y0, x1, y1 = (number_of(shape.get(side), side) for side in BOX)
        return turned(box_of((x0, y0, x1, y1), label), _turn(shape), size)
    if shape.tag == "mask":
        left, top, width, height = (number_of(shape.get(side), side) for side in MASK)
        return box_of((left, top, left + width, top + height), label)
    if shape.tag == "ellipse":
        return _ellipse(shape, label, size)
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
        if any(len(pair) != 2 for pair in pairs):
            raise MalformedLineError("points are not pairs of numbers")
        return bounds([(number_of(x, "x"), number_of(y, "y")) for x, y in pairs], label)
    if shape.tag == "cuboid":
        xs = [number_of(value, name) for name, value in shape.items() if name.startswith("x")]
        ys = [number_of(value, name) for name, value in shape.items() if name.startswith("y")]
        if not xs or len(xs) != len(ys):
            raise MalformedLineError("a cuboid without its corners")
        return bounds(zip(xs, ys, strict=True), label)
    raise MalformedLineError(f"a shape <{shape.tag[:40]}> is not known")


def _turn(shape: Element) -> float:
    return number_of(shape.get(ROTATION) or 0, ROTATION)


def _ellipse(shape: Element, label: str, size: Size | None) -> RawBox:
    x, y, across, down = (number_of(shape.get(side), side) for side in ELLIPSE)
    if across <= 0 or down <= 0:
        raise MalformedLineError(f"an ellipse with the radii {across:g} {down:g} has no area")
    box = box_of((x - across, y - down, x + across, y + down), label)
    return turned(box, _turn(shape), size, ellipse=True)
