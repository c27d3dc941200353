"""YOLO: one text file per image, one line per box: `class cx cy width height`, as shares of the image's size.

An empty file is an image in which nothing was found. The classes are in classes.txt or obj.names, one name per line, or
in data.yaml or dataset.yaml, as `names`. `labels/…/a.txt` belongs to `images/…/a.jpg`, else to the image beside it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from producer.labels.formats.entries import Entry, Options, Problems, RawBox, box_of, number_of, required
from producer.labels.formats.files import files_in, text_file
from producer.sources.manifest import MalformedLineError
from scanfleet.images import SUFFIXES
from scanfleet.storage.file_uri import path_to_uri

NAME_FILES = ("classes.txt", "obj.names")
YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NOT_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt", "readme.txt", "notes.txt")


def is_yolo(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*NAME_FILES, *YAML_FILES))


def read_yolo(path: Path, options: Options, problems: Problems) -> list[Entry]:
    """Read a folder that holds the list of classes."""
    try:
        names = _classes(path)
        images = _folder(options)
    except MalformedLineError as error:
        problems.add("the folder", str(error))
        return []
    found = []
    for file in files_in(path, ".txt"):
        if file.name.lower() in NOT_LABELS:
            continue
        where = str(file.relative_to(path))
        try:
            uri, lines = _image_of(images, file.relative_to(path)), text_file(file).splitlines()
        except MalformedLineError as error:
            problems.add(where, str(error))
            continue
        boxes = []
        for number, line in enumerate(lines, start=1):
            try:
                boxes += _boxes(line, names)
            except MalformedLineError as error:
                problems.add(f"{where}, line {number}", str(error))
        found.append(Entry(where=where, uri=uri, label=None, boxes=tuple(boxes)))
    return found


def _boxes(line: str, names: dict[int, str]) -> list[RawBox]:
    words = line.split()
    if not words:
        return []
    if len(words) not in (5, 6) or not words[0].isascii() or not words[0].isdigit():  # the sixth is a confidence
        raise MalformedLineError("not `class cx cy width height`")
    number = int(words[0]) if len(words[0]) < 10 else -1
    if number not in names:
        raise MalformedLineError(f"class {words[0][:20]} is not in the list of {len(names)} classes")
    cx, cy, width, height = (number_of(word, "a side") for word in words[1:5])
    if not (0 <= cx <= 1 and 0 <= cy <= 1 and 0 < width <= 1 and 0 < height <= 1):
        raise MalformedLineError(f"{' '.join(words[1:5])} are not shares of the image's size, 0 to 1")
    sides = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    return [box_of(sides, names[number], unit="share")]


def _folder(options: Options) -> Path:
    if options.images is None:
        raise MalformedLineError("YOLO files do not name images: --root must be a folder to find them in, not a bucket")
    return options.images


def _image_of(images: Path, labels: Path) -> str:
    """Return the image of a file of labels, each relative to its folder."""
    parts = labels.with_suffix("").parts
    places = [Path(*parts)]
    if "labels" in parts:
        at = len(parts) - 1 - parts[::-1].index("labels")
        places.insert(0, Path(*parts[:at], "images", *parts[at + 1 :]))
    else:
        places.append(Path("images", *parts))
    for stem in places:
        for suffix in (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)):
            name = stem.parent / (stem.name + suffix)
            if (images / name).is_file():
                return path_to_uri(os.fsencode(name))
    tried = " and ".join(map(str, places))
    raise MalformedLineError(f"no image found for it (looked for {tried} with {', '.join(SUFFIXES)})")


def _classes(folder: Path) -> dict[int, str]:
    for name in NAME_FILES:
        if (folder / name).is_file():
            lines = [line.strip() for line in text_file(folder / name).rstrip().splitlines()]
            return {number: required(line, f"name in line {number + 1} of {name}") for number, line in enumerate(lines)}
    for name in YAML_FILES:
        if (folder / name).is_file():
            return _yaml_names(text_file(folder / name), name)
    there = ", ".join((*NAME_FILES, *YAML_FILES))
    raise MalformedLineError(f"no list of classes (one of {there})")


def _yaml_names(text: str, name: str) -> dict[int, str]:
    """Read `names: [a, b]`, or one per line as `- a` or `0: a`: the forms in use, without a YAML parser."""
    found = re.search(
        r"^names:[ \t]*(?:\[([^\]]*)\]|((?:\n[ \t]*(?:-|\d+:)[^\n]*|\n[ \t]*(?:#[^\n]*)?(?=\n))*))", text, re.M
    )
    if found is None or not (found[1] or found[2]):
        raise MalformedLineError(f"{name} has no `names` in a supported form: write classes.txt, one name per line")
    if found[1] is not None:
        return {number: _plain(word) for number, word in enumerate(found[1].split(",")) if word.strip()}
    lines = [line.strip() for line in found[2].splitlines() if line.strip() and not line.strip().startswith("#")]
    if all(line.startswith("-") for line in lines):
        return {number: _plain(line[1:]) for number, line in enumerate(lines)}
    pairs = [line.partition(":") for line in lines]
    return {int(number): _plain(word) for number, _, word in pairs if number.isdigit()}


def _plain(word: str) -> str:
    return required(word.split(" #")[0].strip().strip("'\""), "name of a class")
