"""Pascal VOC: one XML file per image (host.robots.ox.ac.uk/pascal/VOC). Without objects, nothing was found in it.

A document type is refused before it is read: entities that expand without end, or fetch files, need one.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from producer.labels.formats.entries import (
    Entry,
    Options,
    Problems,
    RawBox,
    Regions,
    box_of,
    name_of,
    number_of,
    required,
    size_of,
)
from producer.labels.formats.files import bytes_file, files_in
from producer.sources.manifest import MalformedLineError
from scanfleet.images import SUFFIXES

MARKERS = {"object", "bndbox", "robndbox", "polygon"}  # of something that is not nothing
SIDES = ("xmin", "ymin", "xmax", "ymax")
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
DECLARED = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]*)["']""")


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str, system: str) -> NoReturn:
        raise MalformedLineError("it has a document type (<!DOCTYPE …>), which VOC files do not need")


def read_voc(path: Path, options: Options, problems: Problems) -> list[Entry]:
    """Read a file, or a folder of files. If several files name one image, none of them counts."""
    files = files_in(path, ".xml") if path.is_dir() else [path]
    top = path if path.is_dir() else path.parent
    found = []
    for file in files:
        where = str(file.relative_to(top))
        try:
            found.append(_entry(top, file, where, options.images, problems))
        except MalformedLineError as error:
            problems.leave_out(where, str(error))
    n_files = Counter(entry.uri for entry in found)
    for entry in found:
        if n_files[entry.uri] > 1:
            problems.leave_out(entry.where, f"{n_files[entry.uri]} files are about the image {entry.uri}")
    return [entry for entry in found if n_files[entry.uri] == 1]


def _entry(top: Path, file: Path, where: str, images: Path | None, problems: Problems) -> Entry:
    root = _parse(file)
    if root.tag != "annotation":
        raise MalformedLineError(f"not a VOC file: it starts with <{root.tag[:40]}>")
    name = name_of(root.findtext("filename"), "filename")
    regions = Regions(problems)
    for number, thing in enumerate(root.iterfind("object"), start=1):
        try:
            label = required(thing.findtext("name"), "name")
        except MalformedLineError as error:
            raise MalformedLineError(f"object {number}: {error}") from None
        regions.add(f"{where}: object {number}", label, partial(_box, thing, label))
    if root.find("object") is None and any(str(inner.tag).lower() in MARKERS for inner in root.iter()):
        raise MalformedLineError("it has objects, but not directly below <annotation>")
    found = regions.fields()
    if regions.bare and not regions.boxes:
        found["boxes"] = None
    size = size_of(root.findtext("size/width"), root.findtext("size/height"))
    return Entry(where=where, uri=_image_of(top, file, name, images), label=None, size=size, **found)


def _parse(file: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_Builder())  # noqa: S314
    try:
        parser.feed(_text(bytes_file(file)))
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise MalformedLineError(f"not XML: {error}") from None
    return root


def _text(data: bytes) -> str:
    """Decode as the byte order mark or the declaration says, else as UTF-8. Raises MalformedLineError."""
    declared = DECLARED.match(data)
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    if encoding is None:
        encoding = declared[1].decode("ascii") if declared else "utf-8"
        if encoding.lower().startswith(("utf-16", "utf-32", "ucs")):  # the declaration itself is in single bytes
            encoding = "utf-8"
    try:
        return data.decode(encoding)
    except LookupError:
        raise MalformedLineError(f"the encoding {encoding[:40]} is not known") from None
    except UnicodeError as error:
        raise MalformedLineError(f"not {encoding}: {error}") from None


def _box(thing: ElementTree.Element, label: str) -> RawBox | None:
    """Parse a box. VOC counts pixels from 1, and a box includes its last row and column."""
    if thing.find("bndbox") is None:
        return None
    sides = [number_of(thing.findtext(f"bndbox/{side}"), side) for side in SIDES]
    return box_of((max(sides[0] - 1, 0), max(sides[1] - 1, 0), sides[2], sides[3]), label)


def _image_of(top: Path, file: Path, name: str, images: Path | None) -> str:
    """Return the image of an annotation: JPEGImages/…/a.jpg for Annotations/…/a.xml, else the file beside it.

    Renamed files often keep the old name inside. So an image with the name of the XML file comes before another one.
    """
    if "://" in name or name.startswith("/"):
        return name
    parts = file.parent.relative_to(top).parts
    folders = [Path(*parts)]
    if "Annotations" in parts:
        at = parts.index("Annotations")
        folders.insert(0, Path(*parts[:at], "JPEGImages", *parts[at + 1 :]))
    if images is None or not any((images / folder / name).is_file() for folder in folders):
        name = name.strip()
    if images is not None and Path(name).stem != file.stem:
        own = {str(folder / (file.stem + suffix)) for folder in folders for suffix in _suffixes(name)}
        there = sorted(one for one in own if (images / one).is_file())
        named = [str(folder / name) for folder in folders if (images / folder / name).is_file()]
        if there and named:
            raise MalformedLineError(f"it may be about {there[0]} or, as it says, {named[0]}")
        if there:
            return there[0]
    for folder in folders[:-1]:
        if images is None or (images / folder / name).is_file():
            return str(folder / name)
    if Path(name).suffix.lower() not in SUFFIXES:  # some tools write the name without its suffix
        raise MalformedLineError(f"filename {name[:60]!r} is not an image's")
    return str(folders[-1] / name)


def _suffixes(name: str) -> list[str]:
    given = {Path(name).suffix} - {""}
    return [*given, *SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)]
