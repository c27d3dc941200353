"""Detects the format of a file or folder of labels, and reads it."""

from __future__ import annotations

from pathlib import Path

from producer.labels.formats.coco import read_coco
from producer.labels.formats.entries import Entry, Options, Problems, Reader
from producer.labels.formats.files import files_in, is_empty, json_file
from producer.labels.formats.labelstudio import is_labelstudio, read_labelstudio
from producer.labels.formats.tabular import read_csv, read_jsonl
from producer.labels.formats.voc import read_voc
from producer.labels.formats.yolo import is_yolo, read_yolo
from producer.sources.manifest import MalformedLineError
from scanfleet.errors import BadLabels, SourceNotFound

READERS: dict[str, Reader] = {
    "csv": read_csv,
    "jsonl": read_jsonl,
    "coco": read_coco,
    "yolo": read_yolo,
    "voc": read_voc,
    "labelstudio": read_labelstudio,
}
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".xml": "voc"}
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
        if is_yolo(path):
            return "yolo"
        if files_in(path, ".xml"):
            return "voc"
        raise BadLabels(f"{path}: neither YOLO (no classes.txt or data.yaml) nor Pascal VOC (no .xml file)")
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    if path.suffix.lower() != ".json":
        raise BadLabels(f"{path}: its name does not tell the format: give --format ({', '.join(READERS)})")
    try:
        body = json_file(path)
    except MalformedLineError as error:
        raise BadLabels(f"{path}: {error}") from None
    if isinstance(body, dict) and "images" in body:
        return "coco"
    if is_labelstudio(body):
        return "labelstudio"
    raise BadLabels(f"{path}: neither COCO (an object with `images`) nor Label Studio (a list of tasks)")
