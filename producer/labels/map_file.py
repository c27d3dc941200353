"""Files that map the names in a file of labels to the labels of a check: TOML, JSON, or a table with two columns."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterator
from pathlib import Path

from scanfleet.errors import BadLabels
from scanfleet.producer.labels.formats.parsing.files import lines_of, text_file
from scanfleet.producer.labels.formats.parsing.json_parts import loads
from scanfleet.producer.sources.manifest import MalformedLineError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".toml", ".json", *SEPARATORS)
HEADERS = {("theirs", "ours"), ("from", "to")}


def read_map(path: Path) -> Iterator[tuple[str, str]]:
    """Yield theirs and ours. Raises BadLabels, SourceNotFound, AccessDenied."""
    try:
        pairs = list(_table(path) if path.suffix.lower() in SEPARATORS else _object(path))
    except (MalformedLineError, tomllib.TOMLDecodeError, csv.Error) as error:
        raise BadLabels(f"--map {path}: {error}") from None
    for theirs, ours in pairs:
        if not isinstance(ours, str) or not theirs or not ours:
            raise BadLabels(f"--map {path}: {theirs!r} has no label: write a name and a label of the check")
        yield theirs, ours


def _object(path: Path) -> Iterator[tuple[str, object]]:
    text = text_file(path)
    body = loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    if not isinstance(body, dict):
        raise MalformedLineError("not an object of names and labels")
    tables = [value for value in body.values() if isinstance(value, dict)]
    yield from (tables[0] if len(tables) == len(body) == 1 else body).items()


def _table(path: Path) -> Iterator[tuple[str, object]]:
    lines = lines_of(path)
    mark = SEPARATORS[path.suffix.lower()]
    if mark == "," and lines and "," not in lines[0] and ";" in lines[0]:
        mark = ";"
    for number, fields in enumerate(csv.reader(lines, strict=True, delimiter=mark)):
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != 2:
            raise MalformedLineError(f"line {number + 1}: {len(fields)} columns, not theirs and ours")
        theirs, ours = (field.strip() for field in fields)
        if number or (theirs.lower(), ours.lower()) not in HEADERS:
            yield theirs, ours
