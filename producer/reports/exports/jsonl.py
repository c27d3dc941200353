"""Lines of JSON of whole columns: those of `producer.reports.export.as_record`, twice as fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

import sqlalchemy as sa

from scanfleet.db.results.results import ResultFilter
from scanfleet.producer.reports.exports.columns import FIXED, Table, dumps
from scanfleet.producer.reports.exports.page import Page, Values


def write_jsonl(table: Table, file: IO[bytes]) -> int:
    """Write an object per image and return their number. table: of `lines_table`."""
    n = 0
    for page in table.pages():
        file.write(json_lines(page))
        n += page.n
    return n


def lines_table(engine: sa.Engine, wanted: ResultFilter, *, limit: int | None = None) -> Table:
    """Return what lines are made of: all columns, and the manifests whole."""
    return Table(columns=FIXED, fields=(), engine=engine, wanted=wanted, limit=limit)


def json_lines(page: Page) -> bytes:
    rows = zip(*(values(page) for values in _RECORD.values()), strict=True)
    return "".join([f"{dumps(dict(zip(_RECORD, row, strict=True)))}\n" for row in rows]).encode()


_COLUMN = {column.name: column.values for column in FIXED}


def _objects(prefix: str, given: str) -> Callable[[Page], Values]:
    """Return the columns of a prefix as objects; None where the column `given` has no value."""
    columns = {name.removeprefix(prefix): values for name, values in _COLUMN.items() if name.startswith(prefix)}

    def values(page: Page) -> Values:
        rows = zip(*(column(page) for column in columns.values()), strict=True)
        there = _COLUMN[given](page)
        return [
            None if one is None else dict(zip(columns, row, strict=True)) for one, row in zip(there, rows, strict=True)
        ]

    return values


def _records(held: Callable[[Page], Values]) -> Callable[[Page], Values]:
    return lambda page: [one and one.record() for one in held(page)]


def _times(page: Page) -> Values:
    return [at and at.isoformat() for at in page.raw["scored_at"]]


_APART: dict[str, Callable[[Page], Values]] = {
    "crop": _records(lambda page: page.crop),
    "frames": _records(lambda page: page.frames),
    "notes": lambda page: page.parsed("notes"),
    "scorer": _objects("scorer_", "scorer_id"),
    "scored_at": _times,
    "meta": lambda page: page.parsed("meta"),
    "failure": _objects("failure_", "failure_stage"),
}
_RECORD: dict[str, Callable[[Page], Any]] = {
    name: _APART.get(name) or _COLUMN[name]
    for name in (
        "image_id", "scan", "check", "model", "uri", "state", "label", "decision", "score", "calibrated", "margin",
        "mass", "boxes", "box_problems", "crop", "frames", "notes", "explanation", "explanation_problem", "unlike",
        "doubted", "scorer", "reused", "scored_at", "content_sha256", "size", "width", "height", "meta", "failure",
    )
}  # fmt: skip
