"""Pascal VOC: one XML file per image (host.robots.ox.ac.uk/pascal/VOC). Without objects, nothing was found in it.

Attributes are `<attributes><attribute><name>…</name><value>…`, as CVAT writes them, and what VOC says itself of an
object: pose, truncated, difficult, occluded.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from scanfleet.images import SUFFIXES
from scanfleet.producer.labels.formats.entries import (
    Attributes,
    Entry,
    Options,
    Problems,
    RawBox,
    Regions,
    Size,
    attributes_of,
    box_of,
    name_of,
    number_of,
    required,
    size_of,
)
from scanfleet.producer.labels.formats.parsing.files import files_in
from scanfleet.producer.labels.formats.parsing.xml_tree import Element, only, root_of_xml
from scanfleet.producer.labels.formats.turning import taken_rotation, turned
from scanfleet.producer.sources.manifest import MalformedLineError

ROOT = "annotation"  # the outermost element
MARKERS = {"object", "bndbox", "robndbox", "polygon"}  # of something that is not nothing
OTHERS = {"source", "size", "owner", "attributes"}  # elements with parts that are no objects
STATED = ("pose", "truncated", "difficult", "occluded")  # of an object, by VOC itself
UNSTATED = {"", "0", "unspecified"}
SIDES = ("xmin", "ymin", "xmax", "ymax")


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
    root = root_of_xml(file)
    if root.tag != ROOT:
        raise MalformedLineError(f"not a VOC file: it starts with <{root.tag[:40]}>")
    name = name_of(only(root, "filename"), "filename")
    regions = Regions(problems)
    size = size_of(only(root, "size/width"), only(root, "size/height"))
    for number, thing in enumerate(root.iterfind("object"), start=1):
        try:
            label = required(only(thing, "name"), "name")
        except MalformedLineError as error:
            raise MalformedLineError(f"object {number}: {error}") from None
        place = f"{where}: object {number}"
        given = _attributes(thing, place, problems)
        regions.add(place, label, partial(_box, thing, label, taken_rotation(given), size), given)
    if sum(1 for _ in root.iter("object")) > sum(1 for _ in root.iterfind("object")):
        raise MalformedLineError("it has objects, but not directly below <annotation>")
    if root.find("object") is None:
        _require_nothing(root)
    found = regions.fields()
    if regions.bare and not regions.boxes:
        found["boxes"] = None
    uri = _image_of(top, file, name, images)
    more = _attributes(root, where, problems)
    return Entry(where=where, uri=uri, label=None, size=size, attributes=more, **found)


def _require_nothing(root: Element) -> None:
    """Raises MalformedLineError if a file without objects may show something all the same."""
    if any(str(inner.tag).lower() in MARKERS for inner in root.iter()):
        raise MalformedLineError("it has objects, but not directly below <annotation>")
    if strange := [one.tag for one in root if len(one) and one.tag not in OTHERS]:
        raise MalformedLineError(f"it has no <object>, and nobody knows what <{strange[0][:40]}> holds")
    if (root.findtext("segmented") or "0").strip() not in ("0", ""):
        raise MalformedLineError("it has no <object>, but is said to be segmented")


def _attributes(thing: Element, where: str, problems: Problems) -> Attributes | None:
    stated = {name: (thing.findtext(name) or "").strip() for name in STATED}
    given = {name: value for name, value in stated.items() if value.lower() not in UNSTATED}
    for one in thing.iterfind("attributes/attribute"):
        given[(one.findtext("name") or "").strip()] = one.findtext("value") or ""
    return attributes_of(given, where, problems) if given else None


def _box(thing: Element, label: str, degrees: float, size: Size | None) -> RawBox | None:
    """Parse a box. VOC counts pixels from 1, and a box includes its last row and column."""
    if thing.find("bndbox") is None:
        return None
    sides = [number_of(only(thing, f"bndbox/{side}"), side) for side in SIDES]
    box = box_of((max(sides[0] - 1, 0), max(sides[1] - 1, 0), sides[2], sides[3]), label)
    return turned(box, degrees, size)


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
        if images is not None:
            folders.insert(1, Path(*parts[:at], *parts[at + 1 :]))
        parts = parts[at + 1 :]
    if images is not None and parts and Path(name).parts[:-1] == parts:  # it begins with its folders
        name = name if any((images / folder / name).is_file() for folder in folders) else Path(name).name
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
