"""A SQLite file that Datasette opens: the table `results` with types and indexes, views, and a file of metadata."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import IO, Any

from scanfleet.producer.reports.exports.columns import Column, Table
from scanfleet.producer.reports.exports.csv_pages import cells_of
from scanfleet.producer.reports.exports.page import Page, Values

TYPES = {"integer": "INTEGER", "boolean": "INTEGER", "real": "REAL"}  # else TEXT
INDEXES = ("scan", "check", "label", "decision", "failure_reason", "score", "scored_at", "uri", "content_sha256")
VIEWS = {  # name -> query; one whose columns are not all there is left out
    "flags": (("decision",), "select * from results where decision = 'flag'"),
    "reviews": (("decision",), "select * from results where decision = 'review'"),
    "failures": (("failure_reason",), "select * from results where failure_reason is not null"),
    "counts": (
        ("scan", "check", "state", "decision", "label"),
        'select scan, "check", state, decision, label, count(*) as n from results group by 1, 2, 3, 4, 5',
    ),
}
FACETS = ("check", "decision", "label")


def write_sqlite(table: Table, file: IO[bytes]) -> int:
    """Write a database and return the number of rows. Booleans are 0 and 1, times ISO 8601 in UTC, lists JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("pragma journal_mode = off")  # a new file, which nobody reads before it is complete
            connection.execute("pragma synchronous = off")
            n = _fill(connection, table)
        with path.open("rb") as written:
            shutil.copyfileobj(written, file, 1 << 20)
    return n


def _fill(connection: sqlite3.Connection, table: Table) -> int:
    columns = ", ".join(
        f"{_quoted(column.name)} {TYPES.get(column.kind, 'TEXT')}{' PRIMARY KEY' * (column.name == 'image_id')}"
        for column in table.columns
    )
    connection.execute(f"create table results ({columns})")
    places = ", ".join("?" * len(table.columns))
    n = 0
    connection.execute("begin")
    for page in table.pages():
        rows = zip(*(_cells(column, page) for column in table.columns), strict=True)
        connection.executemany(f"insert into results values ({places})", rows)  # noqa: S608
        n += page.n
    connection.execute("commit")
    for name in INDEXES:
        if name in table.names:
            connection.execute(f"create index results_{name} on results ({_quoted(name)})")
    for name, (needed, query) in VIEWS.items():
        if {*needed} <= {*table.names}:
            connection.execute(f"create view {name} as {query}")
    return n


def _cells(column: Column, page: Page) -> Values:
    if column.kind == "time":
        return [at and at.astimezone(UTC).isoformat() for at in column.values(page)]
    if column.field is not None and column.kind not in TYPES:
        return column.values(page)
    return column.values(page) if column.kind == "boolean" else cells_of(column, page)


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def metadata(table: Table, name: str) -> bytes:
    """Return what Datasette shows with the database `name`: `datasette NAME.db --metadata NAME.metadata.json`."""
    described: dict[str, Any] = {
        "description": "One row for each image of each scan.",
        "facets": [facet for facet in FACETS if facet in table.names],
        "columns": dict(_described(table)),
    }
    if "uri" in table.names:
        described["label_column"] = "uri"
    title = {"title": "scanfleet results", "databases": {name: {"tables": {"results": described}}}}
    return json.dumps(title, indent=2, ensure_ascii=False).encode() + b"\n"


def _described(table: Table) -> Iterator[tuple[str, str]]:
    for column in table.columns:
        if column.field is not None:
            yield column.name, f"field {column.field} of the manifest"
        elif column.kind in _WORDS:
            yield column.name, _WORDS[column.kind]


_WORDS = {
    "boolean": "0 or 1",
    "time": "ISO 8601, UTC",
    "boxes": "JSON: x0, y0, x1, y1 in pixels of the upright image, label, score",
    "box": "JSON: x0, y0, x1, y1 in pixels of the upright image",
    "texts": "JSON: a list",
    "object": "JSON: fields of the manifest without a column",
}
