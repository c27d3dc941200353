"""Detects the format of a file or folder of labels, and reads it."""

from __future__ import annotations

from pathlib import Path

from scanfleet.errors import BadLabels, SourceNotFound
from scanfleet.producer.labels.formats.coco import read_coco
from scanfleet.producer.labels.formats.cvat import ROOT as CVAT_ROOT
from scanfleet.producer.labels.formats.cvat import read_cvat
from scanfleet.producer.labels.formats.entries import Entry, Options, Problems, Reader
from scanfleet.producer.labels.formats.groundtruth import SOURCE, read_groundtruth
from scanfleet.producer.labels.formats.labelstudio.tasks import is_labelstudio, read_labelstudio
from scanfleet.producer.labels.formats.parsing.files import files_in, is_empty, opened, suffix_of
from scanfleet.producer.labels.formats.parsing.json_parts import loads, parts_of
from scanfleet.producer.labels.formats.parsing.xml_tree import starts_with
from scanfleet.producer.labels.formats.tabular import read_csv, read_jsonl
from scanfleet.producer.labels.formats.voc import ROOT as VOC_ROOT
from scanfleet.producer.labels.formats.voc import read_voc
from scanfleet.producer.labels.formats.yolo import is_yolo, read_yolo
from scanfleet.producer.sources.manifest import Lines, MalformedLineError

READERS: dict[str, Reader] = {
    "csv": read_csv,
    "jsonl": read_jsonl,
    "coco": read_coco,
    "yolo": read_yolo,
    "voc": read_voc,
    "cvat": read_cvat,
    "labelstudio": read_labelstudio,
    "groundtruth": read_groundtruth,
}
TABLES = {".csv": "csv", ".tsv": "csv", ".tab": "csv"}
LINES = (".jsonl", ".ndjson", ".manifest")
FOLDERS = ("yolo", "voc")


def read_labels(path: Path, *, form: str, options: Options, problems: Problems | None = None) -> list[Entry]:
    """Read every entry of a file or folder. problems: collects them; None: those of an import.

    Raises BadLabels with all problems, SourceNotFound, AccessDenied.
    """
    if not path.exists():
        raise SourceNotFound(f"no such file or folder: {path}")
    if is_empty(path):
        raise BadLabels(f"{path} is empty: there is no label in it")
    problems = Problems(str(path)) if problems is None else problems
    form = _detect(path) if form == "auto" else form
    if path.is_dir() and form not in FOLDERS:
        raise BadLabels(f"{path} is a folder: name the {form} file")
    if form == "yolo" and not path.is_dir():
        raise BadLabels(f"{path} is a file: name the folder that holds classes.txt and the files of labels")
    entries = READERS[form](path, options, problems)
    problems.raise_any()
    problems.require_some(entries)
    if all(entry.blank for entry in entries):
        raise BadLabels(f"{path}: no label found when read as {form} (--format NAME reads it otherwise)")
    return entries


def _detect(path: Path) -> str:
    """Detect the format by suffix and content. Raises BadLabels if neither tells."""
    if path.is_dir():
        found = files_in(path, ".xml")
        if is_yolo(path) and any(starts_with(file, VOC_ROOT) for file in found):
            raise BadLabels(f"{path} holds both YOLO and Pascal VOC: choose with --format yolo or --format voc")
        if is_yolo(path):
            return "yolo"
        if found:
            return "voc"
        raise BadLabels(f"{path}: neither YOLO (no classes.txt or data.yaml) nor Pascal VOC (no .xml file)")
    suffix = suffix_of(path)
    if suffix in TABLES:
        return TABLES[suffix]
    if suffix in LINES:
        return "groundtruth" if suffix == ".manifest" or _names_source(path) else "jsonl"
    if suffix == ".xml":
        return "cvat" if starts_with(path, CVAT_ROOT) else "voc"
    if suffix != ".json":
        raise BadLabels(f"{path}: its name does not tell the format: give --format ({', '.join(READERS)})")
    try:
        return _detect_json(path)
    except MalformedLineError as error:
        if _names_source(path):
            return "groundtruth"
        raise BadLabels(f"{path}: {error}") from None


def _detect_json(path: Path) -> str:
    """Raises MalformedLineError."""
    names: set[str] = set()
    for key, _, value in parts_of(path):
        if key is None:
            if is_labelstudio(value):
                return "labelstudio"
            break
        if key == "images":
            return "coco"
        names.add(key)
    if SOURCE in names:
        return "groundtruth"
    raise MalformedLineError("neither COCO (an object with `images`) nor Label Studio (a list of tasks)")


def _names_source(path: Path) -> bool:
    """Return True if the first line is an object of Ground Truth."""
    if not path.is_file():
        return False
    try:
        with opened(path) as file:
            first = next((line for line in Lines(file) if line.strip()), "")
        row = loads(first)
    except MalformedLineError:
        return False
    return isinstance(row, dict) and SOURCE in row
