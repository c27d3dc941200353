"""Writes results in any format, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import sqlalchemy as sa

from scanfleet.db.results.results import ResultFilter, iter_results
from scanfleet.producer.reports.export import write_results
from scanfleet.producer.reports.exports.answers import checks_of, write_coco, write_rekognition
from scanfleet.producer.reports.exports.columns import Table, open_table
from scanfleet.producer.reports.exports.csv_pages import write_csv_pages
from scanfleet.producer.reports.exports.jsonl import lines_table, write_jsonl
from scanfleet.producer.reports.exports.parquet import write_parquet
from scanfleet.producer.reports.exports.partitions import write_partitions
from scanfleet.producer.reports.exports.sqlite import metadata, write_sqlite
from scanfleet.producer.reports.exports.xlsx import write_xlsx

_TABLES: dict[str, Callable[[Table, IO[bytes]], int]] = {
    "parquet": write_parquet,
    "xlsx": write_xlsx,
    "sqlite": write_sqlite,
    "jsonl": write_jsonl,
}
_ANSWERS = {"coco": write_coco, "rekognition": write_rekognition}
FORMATS = ("csv", "json", "labelstudio", *_TABLES, *_ANSWERS)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What to write, and how.

    columns, dotted: of tables, as in `open_table`. spreadsheet: of CSV, as in `write_csv`.
    """

    engine: sa.Engine
    wanted: ResultFilter
    form: str
    limit: int | None = None
    columns: Sequence[str] | None = None
    dotted: bool = False
    spreadsheet: bool = False

    def write(self, file: IO[bytes]) -> int:
        """Write the results to a file and return their number. Raises MissingExtra, UnknownName."""
        if self.form == "csv":
            return write_csv_pages(self.table, file, spreadsheet=self.spreadsheet)
        if self.form in _TABLES:
            return _TABLES[self.form](self.table, file)
        results = iter_results(self.engine, self.wanted, limit=self.limit)
        if self.form in _ANSWERS:
            return _ANSWERS[self.form](results, file, checks_of(self.engine))
        return write_results(results, file, form=self.form)

    def write_parts(self, folder: Path, *, by: str) -> int:
        """Write the results below a folder, in parts by the time of scoring, as `write_partitions` does."""
        return write_partitions(self.table, folder, form=self.form, by=by, spreadsheet=self.spreadsheet)

    @cached_property
    def table(self) -> Table:
        if self.form == "jsonl":
            return lines_table(self.engine, self.wanted, limit=self.limit)
        return open_table(self.engine, self.wanted, limit=self.limit, columns=self.columns, dotted=self.dotted)

    def metadata(self, name: str) -> bytes:
        """Return what Datasette shows beside the database `name`."""
        return metadata(self.table, name)
