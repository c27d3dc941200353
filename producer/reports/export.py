"""Results one by one: as JSON, JSONL, CSV or tasks of Label Studio. `exports` writes tables faster, page by page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from scanfleet.checks.crop_result import FIELDS as CROP_FIELDS
from scanfleet.db.results.results import Result
from scanfleet.producer.reports.exports.columns import COLUMNS, MAX_META_COLUMNS, as_cell, dumps
from scanfleet.producer.reports.exports.names import column_names
from scanfleet.producer.reports.labelstudio import task_of_result, write_tasks
from scanfleet.producer.reports.output import write_csv

FORMATS = ("jsonl", "json", "csv", "labelstudio")


def as_record(result: Result) -> dict[str, Any]:
    """Return a result as nested plain values; every line has every key."""
    scorer, failure = result.scorer, result.failure
    return {
        "image_id": result.image_id,
        "scan": result.scan,
        "check": result.check,
        "model": result.model,
        "uri": result.uri,
        "state": result.state,
        "label": result.label,
        "decision": result.decision,
        "score": result.score,
        "calibrated": result.calibrated,
        "margin": result.margin,
        "mass": result.mass,
        "boxes": result.boxes,
        "box_problems": result.box_problems,
        "crop": result.crop and result.crop.record(),
        "frames": result.frames and result.frames.record(),
        "notes": result.notes,
        "explanation": result.explanation and result.explanation.text,
        "explanation_problem": result.explanation and result.explanation.problem,
        "unlike": result.unlike,
        "doubted": result.doubted,
        "scorer": scorer
        and {
            "id": scorer.id,
            "key": scorer.key,
            "base_model": scorer.base_model,
            "revision": scorer.revision,
            "precision": scorer.precision,
            "adapter": scorer.adapter,
            "adapter_id": scorer.adapter_id,
            "mode": scorer.mode,
        },
        "reused": result.reused,
        "scored_at": result.scored_at and result.scored_at.isoformat(),
        "content_sha256": result.content_sha256,
        "size": result.size,
        "width": result.width,
        "height": result.height,
        "meta": result.meta,
        "failure": failure and {"stage": failure.stage, "reason": failure.reason, "detail": failure.detail},
    }


_SCORER = ("id", "key", "base_model", "revision", "precision", "adapter", "adapter_id", "mode")
_BOXES = ("boxes", "box_problems")
_FAILURE = ("stage", "reason", "detail")
_FRAMES = {"n_frames": "n_frames", "n_scored": "n_scored", "frame": "frame", "frame_seconds": "seconds"}  # by column
_NESTED = ("scorer", "failure", "meta", "crop", "frames", "notes", *_BOXES)


def as_flat(result: Result, meta_columns: Mapping[str, str]) -> dict[str, Any]:
    """Return a result on one level, for tables: scorer_id, failure_stage, crop_why ...

    Lists and values without fixed fields (boxes, their problems, the box of a crop, meta, notes) become JSON text.
    meta_columns: field of `meta` -> its column; `meta` holds the others.
    """
    record = as_record(result)
    flat = {name: value for name, value in record.items() if name not in _NESTED}
    flat |= {f"scorer_{name}": (record["scorer"] or {}).get(name) for name in _SCORER}
    crop = record["crop"] or {}
    flat |= {f"crop_{name}": crop.get(name) for name in CROP_FIELDS}
    flat["crop_box"] = None if crop.get("box") is None else dumps(crop["box"])
    flat |= {f"failure_{name}": (record["failure"] or {}).get(name) for name in _FAILURE}
    meta = record["meta"] or {}
    rest = {name: value for name, value in meta.items() if name not in meta_columns}
    flat |= {name: None if record[name] is None else dumps(record[name]) for name in _BOXES}
    flat |= {"meta": dumps(rest) if rest else None}
    flat |= {column: (record["frames"] or {}).get(name) for column, name in _FRAMES.items()}
    flat |= {"notes": dumps(record["notes"]) if record["notes"] else None}
    return flat | {column: as_cell(meta.get(name)) for name, column in meta_columns.items()}


def write_results(results: Iterable[Result], file: IO[bytes], *, form: str, spreadsheet: bool = False) -> int:
    """Write results in one of FORMATS and return their number.

    spreadsheet: of CSV, as in `write_csv`.
    """
    if form == "csv":
        return _write_csv(results, file, spreadsheet=spreadsheet)
    return _WRITERS[form](results, file)


def _write_jsonl(results: Iterable[Result], file: IO[bytes]) -> int:
    n = 0
    for result in results:
        file.write(f"{dumps(as_record(result))}\n".encode())
        n += 1
    return n


def _write_json(results: Iterable[Result], file: IO[bytes]) -> int:
    n = 0
    file.write(b"[")
    for n, result in enumerate(results, start=1):
        file.write(f"{',' if n > 1 else ''}\n{dumps(as_record(result))}".encode())
    file.write(b"\n]\n")
    return n


def _write_csv(results: Iterable[Result], file: IO[bytes], *, spreadsheet: bool) -> int:
    """Write a table of few rows: all are read first, since the columns depend on them."""
    found = list(results)
    n_images = Counter(name for result in found for name in result.meta or {})
    most = sorted(n_images, key=lambda name: (-n_images[name], name))[:MAX_META_COLUMNS]
    names = column_names(most, COLUMNS)
    rows = (as_flat(each, names) for each in found)
    return write_csv(file, (*COLUMNS, *names.values()), rows, spreadsheet=spreadsheet)


def _write_tasks(results: Iterable[Result], file: IO[bytes]) -> int:
    """Write the images with an answer, for people to review."""
    return write_tasks(filter(None, map(task_of_result, results)), file)


_WRITERS: dict[str, Callable[[Iterable[Result], IO[bytes]], int]] = {
    "labelstudio": _write_tasks,
    "jsonl": _write_jsonl,
    "json": _write_json,
}
