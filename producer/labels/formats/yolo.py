"""YOLO: one text file per image, one line per box: `class cx cy width height`, as shares of the image's size.

A line may also be a polygon, `class x1 y1 x2 y2 x3 y3 ...`, or a turned box (OBB), by its four corners. An empty file
is an image in which nothing was found. The classes are in classes.txt or obj.names, one name per line, or in data.yaml
or dataset.yaml, as `names`. `labels/…/a.txt` belongs to `images/…/a.jpg`, else to `…/a.jpg`, else to the image beside
it.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path

from scanfleet.images import SUFFIXES
from scanfleet.producer.labels.formats.entries import (
    Entry,
    Options,
    Problems,
    RawBox,
    Regions,
    bounds,
    box_of,
    number_of,
)
from scanfleet.producer.labels.formats.parsing.files import files_in, lines_of
from scanfleet.producer.labels.formats.yolo_classes import NAME_FILES, YAML_FILES, Classes, read_classes
from scanfleet.producer.sources.manifest import MalformedLineError
from scanfleet.storage.file_uri import path_to_uri

NOT_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt", "notes.txt")  # unless an image has this name
OBB = 8  # numbers of a turned box
ROUNDING = 0.01  # a larger share is one of something else


def is_yolo(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*NAME_FILES, *YAML_FILES))


def read_yolo(path: Path, options: Options, problems: Problems) -> list[Entry]:
    """Read a folder that holds the list of classes."""
    try:
        classes = read_classes(path)
        images = _Images(_folder(options))
    except MalformedLineError as error:
        problems.add("the folder", str(error))
        return []
    found: dict[str, Entry] = {}
    twice: dict[str, list[str]] = {}
    for file in files_in(path, ".txt"):
        if file.parent == path and file.name in NAME_FILES:
            continue
        where = str(file.relative_to(path))
        try:
            uri = images.of(file.relative_to(path))
            if uri is None and (file.name.lower() in NOT_LABELS or file.name.lower().startswith("readme.")):
                continue
            entry = _entry(where, file, uri, classes, problems)
        except MalformedLineError as error:
            problems.leave_out(where, str(error))
            continue
        if found.setdefault(entry.uri, entry) is not entry:
            twice.setdefault(entry.uri, [found[entry.uri].where]).append(where)
    for uri, places in twice.items():
        problems.leave_out(places[0], f"{', '.join(places)} are all about the image {uri}")
    return [entry for uri, entry in found.items() if uri not in twice]


def _entry(where: str, file: Path, uri: str | None, classes: Classes, problems: Problems) -> Entry:
    """Raises MalformedLineError."""
    if uri is None:
        tried = " and ".join(map(str, _stems(Path(where))))
        raise MalformedLineError(f"no image found for it (looked for {tried} with {', '.join(SUFFIXES)})")
    regions = Regions(problems)
    for number, line in enumerate(lines_of(file), start=1):
        words = line.split()
        if not words:
            continue
        place = f"{where}, line {number}"
        try:
            label = _label(words, classes)
        except MalformedLineError as error:
            raise MalformedLineError(f"line {number}: {error}") from None
        regions.add(place, label, partial(_box, words[1:], label, classes))
    return Entry(where=where, uri=uri, label=None, **regions.fields())


def _label(words: list[str], classes: Classes) -> str:
    if not words[0].isascii() or not words[0].isdigit():
        raise MalformedLineError("not `class cx cy width height`")
    number = int(words[0]) if len(words[0]) < 10 else -1
    if number not in classes.names:
        raise MalformedLineError(f"class {words[0][:20]} is not in the list of {len(classes.names)} classes")
    return classes.names[number]


def _box(words: list[str], label: str, classes: Classes) -> RawBox:
    polygon = len(words) >= 6 and len(words) % 2 == 0 and not classes.key_points
    if len(words) not in (4, 5) and not polygon and not (classes.key_points and len(words) > 5):
        raise MalformedLineError("not `class cx cy width height`")  # the sixth is a confidence
    numbers = [number_of(word, "a side") for word in (words if polygon else words[:4])]
    if len(words) == 6 and words[5].isdigit() and words[5] != "0":
        raise MalformedLineError("a triangle, or a box with its confidence and a track's number")
    beyond = 1.0 if len(words) == OBB else ROUNDING  # a turned box sticks out of the image
    if min(numbers) < -beyond or max(numbers) > 1 + beyond:
        raise MalformedLineError(f"{' '.join(words[:4])} are not shares of the image's size, 0 to 1")
    if polygon:
        inside = [min(max(number, 0.0), 1.0) for number in numbers]
        return bounds(zip(inside[::2], inside[1::2], strict=True), label, unit="share")
    cx, cy, width, height = numbers
    return box_of((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), label, unit="share")


def _folder(options: Options) -> Path:
    if options.images is None:
        raise MalformedLineError("YOLO files do not name images: --root must be a folder to find them in, not a bucket")
    return options.images


class _Images:
    """The images of a folder. Each folder is listed once."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._listed: dict[Path, dict[str, list[Path]]] = {}

    def of(self, labels: Path) -> str | None:
        """Return the image that a file of labels belongs to. Raises MalformedLineError if several do."""
        found = next((found for stem in _stems(labels) if (found := self._in(stem.parent).get(stem.name))), [])
        if len(found) > 1:
            raise MalformedLineError(f"it may be about any of {', '.join(map(str, found))}")
        return path_to_uri(os.fsencode(found[0])) if found else None

    def _in(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._listed:
            stems = self._listed[folder] = {}
            with contextlib.suppress(OSError):  # there is no such folder
                for name in sorted(os.listdir(self._top / folder)):
                    if Path(name).suffix.lower() in SUFFIXES and (self._top / folder / name).is_file():
                        stems.setdefault(Path(name).stem, []).append(folder / name)
        return self._listed[folder]


def _stems(labels: Path) -> list[Path]:
    parts = labels.with_suffix("").parts
    places = [Path(*parts)]
    if "labels" in parts:
        at = len(parts) - 1 - parts[::-1].index("labels")
        places[:0] = [Path(*parts[:at], "images", *parts[at + 1 :]), Path(*parts[:at], *parts[at + 1 :])]
    else:
        places.append(Path("images", *parts))
    return places
