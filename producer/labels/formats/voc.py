"""Pascal VOC: one XML file per image (host.robots.ox.ac.uk/pascal/VOC). Without objects, nothing was found in it.

A document type is refused before it is read: entities that expand without end, or fetch files, need one.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from producer.labels.formats.entries import Entry, Options, Problems, RawBox, box_of, number_of, required
from producer.labels.formats.files import files_in, text_file
from producer.sources.manifest import MalformedLineError
from scanfleet.images import SUFFIXES

SIDES = ("xmin", "ymin", "xmax", "ymax")


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str, system: str) -> NoReturn:
        raise MalformedLineError("it has a document type (<!DOCTYPE …>), which VOC files do not need")


def read_voc(path: Path, options: Options, problems: Problems) -> list[Entry]:
    """Read a file, or a folder of files."""
    files = files_in(path, ".xml") if path.is_dir() else [path]
    top = path if path.is_dir() else path.parent
    found = []
    for file in files:
        where = str(file.relative_to(top))
        try:
            found.append(_entry(top, file, where, options.images))
        except MalformedLineError as error:
            problems.add(where, str(error))
    return found


def _entry(top: Path, file: Path, where: str, images: Path | None) -> Entry:
    root = _parse(file)
    if root.tag != "annotation":
        raise MalformedLineError(f"not a VOC file: it starts with <{root.tag[:40]}>")
    name = required(root.findtext("filename"), "filename")
    boxes = []
    for number, thing in enumerate(root.iterfind("object"), start=1):
        try:
            boxes.append(_box(thing))
        except MalformedLineError as error:
            raise MalformedLineError(f"object {number}: {error}") from None
    return Entry(where=where, uri=_image_of(top, file, name, images), label=None, boxes=tuple(boxes))


def _parse(file: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_Builder())  # noqa: S314
    try:
        parser.feed(text_file(file))
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise MalformedLineError(f"not XML: {error}") from None
    return root


def _box(thing: ElementTree.Element) -> RawBox:
    """Parse a box. VOC counts pixels from 1, and a box includes its last row and column."""
    label = required(thing.findtext("name"), "name")
    sides = [number_of(thing.findtext(f"bndbox/{side}"), side) for side in SIDES]
    return box_of((max(sides[0] - 1, 0), max(sides[1] - 1, 0), sides[2], sides[3]), label)


def _image_of(top: Path, file: Path, name: str, images: Path | None) -> str:
    """Return the image of an annotation: JPEGImages/…/a.jpg for Annotations/…/a.xml, else the file beside it."""
    if "://" in name or name.startswith("/"):
        return name
    parts = file.parent.relative_to(top).parts
    beside = str(Path(*parts, name))
    if "Annotations" in parts:
        at = parts.index("Annotations")
        paired = str(Path(*parts[:at], "JPEGImages", *parts[at + 1 :], name))
        if images is None or (images / paired).is_file():
            return paired
    if Path(name).suffix.lower() not in SUFFIXES:  # some tools write the name without its suffix
        raise MalformedLineError(f"filename {name[:60]!r} is not an image's")
    return beside
