"""Writes a folder of labels, a file per image: YOLO and Pascal VOC. It appears once it is complete."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from scanfleet.db.labels.labels import CurrentLabel
from scanfleet.producer.labels.formats.turning import ROTATION
from scanfleet.producer.labels.writing.places import below
from scanfleet.producer.labels.writing.said import Sayable
from scanfleet.producer.reports.exports.places import appearing_folder

UNSAID = "the format has no word for it: its label does not follow from its boxes"
ELSEWHERE = "not below --root"
SAME_NAME = "two images differ only in their suffix"
NO_XML = "a name or text with a character that XML cannot hold"
STATED = {"pose": "Unspecified", "truncated": "0", "difficult": "0"}
NOT_IN_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def write_yolo(labels: Iterable[CurrentLabel], place: Path, sayable: Sayable, root: str) -> tuple[int, Counter[str]]:
    """Write `labels/NAME.txt` for each image, classes.txt and data.yaml. Returns their number, and what is left out."""
    names = list(sayable.check.labels)
    left_out: Counter[str] = Counter()
    clashing: set[Path] = set()
    n = 0
    with appearing_folder(place) as folder:
        _write(folder / "classes.txt", "".join(f"{name}\n" for name in names))
        words = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(names))
        _write(folder / "data.yaml", f"path: .\ntrain: images\nval: images\nnc: {len(names)}\nnames:\n{words}")
        for one, name in _sayable(labels, sayable, root, left_out):
            file = folder / "labels" / f"{PurePosixPath(name).with_suffix('')}.txt"
            if file in clashing or file.exists():
                left_out[SAME_NAME] += 1 + (file not in clashing)
                n -= file not in clashing
                clashing.add(file)
                file.unlink(missing_ok=True)
                continue
            _write(file, "".join(_yolo_line(box, one, names) for box in one.boxes or ()))
            n += 1
    return n, left_out


def _yolo_line(box: Mapping[str, Any], one: CurrentLabel, names: Sequence[str]) -> str:
    x0, x1, y0, y1 = box["x0"] / one.width, box["x1"] / one.width, box["y0"] / one.height, box["y1"] / one.height
    sides = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    return " ".join([str(names.index(box["label"])), *(f"{side:.8f}" for side in sides)]) + "\n"


def write_voc(labels: Iterable[CurrentLabel], place: Path, sayable: Sayable, root: str) -> tuple[int, Counter[str]]:
    """Write `Annotations/NAME.xml` for each image. Returns their number, and what is left out.

    Sides are whole pixels, counted from 1, around the box.
    """
    left_out: Counter[str] = Counter()
    n = 0
    with appearing_folder(place) as folder:
        (folder / "Annotations").mkdir()
        for one, name in _sayable(labels, sayable, root, left_out):
            text = ElementTree.tostring(_voc(one, name), encoding="unicode")
            if NOT_IN_XML.search(text):
                left_out[NO_XML] += 1
                continue
            file = folder / "Annotations" / f"{PurePosixPath(name).with_suffix('')}.xml"
            if file.exists():
                file = file.with_name(f"{PurePosixPath(name).name}.xml")
            _write(file, f"{text}\n")
            n += 1
    return n, left_out


def _voc(one: CurrentLabel, name: str) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    path = PurePosixPath(name)
    _add(root, "folder", str(path.parent))
    _add(root, "filename", one.uri if "://" in one.uri else path.name)  # a bucket cannot be searched by name
    size = ElementTree.SubElement(root, "size")
    for field, length in (("width", one.width), ("height", one.height), ("depth", 3)):
        _add(size, field, str(length))
    _add_attributes(root, one.attributes)
    for box in one.boxes or ():
        thing = ElementTree.SubElement(root, "object")
        _add(thing, "name", box["label"])
        for name, value in STATED.items():  # other tools ask for them
            _add(thing, name, (box.get("attributes") or {}).get(name, value))
        sides = ElementTree.SubElement(thing, "bndbox")
        for side, place in (
            ("xmin", math.floor(box["x0"]) + 1),
            ("ymin", math.floor(box["y0"]) + 1),
            ("xmax", math.ceil(box["x1"])),
            ("ymax", math.ceil(box["y1"])),
        ):
            _add(sides, side, str(place))
        # Other tools, and our import, would turn the box.
        _add_attributes(thing, {name: text for name, text in (box.get("attributes") or {}).items() if name != ROTATION})
    return root


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text


def _add_attributes(parent: ElementTree.Element, attributes: Mapping[str, str] | None) -> None:
    if attributes:
        several = ElementTree.SubElement(parent, "attributes")
        for name, value in attributes.items():
            one = ElementTree.SubElement(several, "attribute")
            _add(one, "name", name)
            _add(one, "value", value)


def _sayable(
    labels: Iterable[CurrentLabel], sayable: Sayable, root: str, left_out: Counter[str]
) -> Iterator[tuple[CurrentLabel, str]]:
    """Yield the images that the format can say, with their names below the root."""
    for one in labels:
        name = below(one.uri, root)
        if name is None:
            left_out[ELSEWHERE] += 1
        elif not sayable.by_boxes(one):
            left_out[UNSAID] += 1
        else:
            yield one, name


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(os.fsencode(text))
