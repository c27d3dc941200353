"""Writes results as JSON, JSONL, CSV, Parquet or tasks of Label Studio: one per image, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any

from scanfleet.checks.crop_result import FIELDS as CROP_FIELDS
from scanfleet.config.extras import install_hint
from scanfleet.db.results.results import Result
from scanfleet.errors import MissingExtra
from scanfleet.producer.reports.labelstudio import task_of_result, write_tasks
from scanfleet.producer.reports.output import write_csv

FORMATS = ("jsonl", "json", "csv", "parquet", "labelstudio")
META_ROWS = 500  # results that decide which manifest columns a table has
MAX_META_COLUMNS = 200
PARQUET_ROWS = 5000  # results in one row group


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


def as_flat(result: Result, meta_columns: Sequence[str] = ()) -> dict[str, Any]:
    """Return a result on one level, for tables: scorer_id, failure_stage, crop_why ...

    Lists and values without fixed fields (boxes, their problems, the box of a crop, meta, notes) become JSON text.
    meta_columns: fields of `meta` with a column of their own, `meta.<name>`; `meta` holds the others.
    """
    record = as_record(result)
    flat = {name: value for name, value in record.items() if name not in _NESTED}
    flat |= {f"scorer_{name}": (record["scorer"] or {}).get(name) for name in _SCORER}
    crop = record["crop"] or {}
    flat |= {f"crop_{name}": crop.get(name) for name in CROP_FIELDS}
    flat["crop_box"] = None if crop.get("box") is None else _dumps(crop["box"])
    flat |= {f"failure_{name}": (record["failure"] or {}).get(name) for name in _FAILURE}
    meta = record["meta"] or {}
    rest = {name: value for name, value in meta.items() if name not in meta_columns}
    flat |= {name: None if record[name] is None else _dumps(record[name]) for name in _BOXES}
    flat |= {"meta": _dumps(rest) if rest else None}
    flat |= {column: (record["frames"] or {}).get(name) for column, name in _FRAMES.items()}
    flat |= {"notes": _dumps(record["notes"]) if record["notes"] else None}
    return flat | {f"meta.{name}": _cell(meta.get(name)) for name in meta_columns}


def _cell(value: object) -> str | None:
    """Return a field of `meta` for a table: text unchanged, anything else as JSON."""
    return value if value is None or isinstance(value, str) else _dumps(value)


def _begin(results: Iterable[Result]) -> tuple[list[str], Iterator[Result]]:
    """Return the fields of `meta` that get columns, and all results from the first one.

    A table needs its columns before its rows, and an archive is too large to read twice, so the first results decide.
    Images of one manifest have the same fields; a field that turns up later stays in the column `meta`.
    """
    rows = iter(results)
    first = list(islice(rows, META_ROWS))
    names = dict.fromkeys(name for result in first for name in result.meta or {})
    return list(islice(names, MAX_META_COLUMNS)), chain(first, rows)


_NO_RESULT = Result(
    image_id=0,
    scan="",
    check="",
    model="",
    uri="",
    root=None,
    etag=None,
    size=None,
    width=None,
    height=None,
    content_sha256=None,
    meta=None,
    state="pending",
)
COLUMNS = tuple(as_flat(_NO_RESULT))


def write_results(results: Iterable[Result], file: IO[bytes], *, form: str, spreadsheet: bool = False) -> int:
    """Write results in one of FORMATS and return their number. Raises MissingExtra for Parquet without pyarrow.

    spreadsheet: of CSV, as in `write_csv`.
    """
    if form == "csv":
        return _write_csv(results, file, spreadsheet=spreadsheet)
    return _WRITERS[form](results, file)


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _write_jsonl(results: Iterable[Result], file: IO[bytes]) -> int:
    n = 0
    for result in results:
        file.write(f"{_dumps(as_record(result))}\n".encode())
        n += 1
    return n


def _write_json(results: Iterable[Result], file: IO[bytes]) -> int:
    n = 0
    file.write(b"[")
    for n, result in enumerate(results, start=1):
        file.write(f"{',' if n > 1 else ''}\n{_dumps(as_record(result))}".encode())
    file.write(b"\n]\n")
    return n


def _write_csv(results: Iterable[Result], file: IO[bytes], *, spreadsheet: bool) -> int:
    names, found = _begin(results)
    columns = (*COLUMNS, *(f"meta.{name}" for name in names))
    return write_csv(file, columns, (as_flat(each, names) for each in found), spreadsheet=spreadsheet)


def _write_parquet(results: Iterable[Result], file: IO[bytes]) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra(f"Parquet needs pyarrow: {install_hint('parquet')}") from None
    types = {
        **dict.fromkeys(
            ("score", "margin", "mass", "unlike", "crop_first", "crop_second", "crop_sharpness", "frame_seconds"),
            pa.float64(),
        ),
        **dict.fromkeys(("image_id", "size", "width", "height", "scorer_id"), pa.int64()),
        **dict.fromkeys(("scorer_adapter_id", "crop_tokens", "n_frames", "n_scored", "frame"), pa.int64()),
        **dict.fromkeys(("calibrated", "reused"), pa.bool_()),
    }
    names, found = _begin(results)
    columns = (*COLUMNS, *(f"meta.{name}" for name in names))
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    n = 0
    flat = (as_flat(result, names) for result in found)
    with pq.ParquetWriter(file, schema) as writer:
        while rows := list(islice(flat, PARQUET_ROWS)):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            n += len(rows)
    return n


def _write_tasks(results: Iterable[Result], file: IO[bytes]) -> int:
    """Write the images with an answer, for people to review."""
    return write_tasks(filter(None, map(task_of_result, results)), file)


_WRITERS: dict[str, Callable[[Iterable[Result], IO[bytes]], int]] = {
    "labelstudio": _write_tasks,
    "jsonl": _write_jsonl,
    "json": _write_json,
    "parquet": _write_parquet,
}
