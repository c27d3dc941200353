"""Tables in parts by the time of scoring, in folders as Hive names them: `day=2026-11-30/part-0.parquet`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from scanfleet.producer.reports.exports.columns import Table
from scanfleet.producer.reports.exports.csv_pages import csv_header, csv_rows
from scanfleet.producer.reports.exports.jsonl import json_lines
from scanfleet.producer.reports.exports.page import Page
from scanfleet.producer.reports.exports.parquet import ROW_GROUP, Arrow

PERIODS = ("day", "week", "month")
FORMATS = ("csv", "jsonl", "parquet")
NO_TIME = "__HIVE_DEFAULT_PARTITION__"  # of images without an answer
MAX_HELD = 4 * ROW_GROUP  # rows in memory, of all parts together


class _Parts(Protocol):
    def add(self, folder: Path, page: Page) -> None: ...

    def close(self) -> None: ...


def write_partitions(table: Table, folder: Path, *, form: str, by: str, spreadsheet: bool = False) -> int:
    """Write all rows below a folder, and return their number. form: one of FORMATS. by: one of PERIODS, in UTC.

    A week is named by its Monday. Memory is bounded; a part of Parquet is cut into several files for that.
    """
    parts: _Parts = _Tables(table) if form == "parquet" else _Texts(table, form, spreadsheet=spreadsheet)
    n = 0
    for page in table.pages(("scored_at",)):
        n += page.n
        for period, share in _shares(page, by):
            place = folder / f"{by}={period}"
            place.mkdir(exist_ok=True)
            parts.add(place, share)
    parts.close()
    return n


def _shares(page: Page, by: str) -> Iterator[tuple[str, Page]]:
    numbers = defaultdict(list)
    for number, at in enumerate(page.raw["scored_at"]):
        numbers[period_of(at, by)].append(number)
    for period, chosen in numbers.items():
        yield period, page if len(chosen) == page.n else page.take(chosen)


def period_of(at: datetime | None, by: str) -> str:
    """
    >>> period_of(datetime(2026, 12, 2, tzinfo=UTC), "week"), period_of(None, "day")
    ('2026-11-30', '__HIVE_DEFAULT_PARTITION__')
    """
    if at is None:
        return NO_TIME
    day = at.astimezone(UTC).date()
    if by == "week":
        day -= timedelta(days=day.weekday())
    return day.isoformat()[:7] if by == "month" else day.isoformat()


class _Texts:
    """A file for each part; none stays open."""

    def __init__(self, table: Table, form: str, *, spreadsheet: bool) -> None:
        self._table, self._form, self._spreadsheet = table, form, spreadsheet

    def add(self, folder: Path, page: Page) -> None:
        path = folder / f"part-0.{self._form}"
        new = not path.exists()
        with path.open("ab") as file:
            if self._form == "jsonl":
                file.write(json_lines(page))
                return
            if new:
                file.write(csv_header(self._table, spreadsheet=self._spreadsheet))
            file.write(csv_rows(self._table, page, spreadsheet=self._spreadsheet))

    def close(self) -> None:
        return


class _Tables:
    """Row groups grow in memory. If they are too many, the largest part is written, and goes on in another file."""

    def __init__(self, table: Table) -> None:
        self._arrow = Arrow(table)
        self._held: dict[Path, list[Any]] = defaultdict(list)
        self._n_held: dict[Path, int] = defaultdict(int)
        self._n_files: dict[Path, int] = defaultdict(int)

    def add(self, folder: Path, page: Page) -> None:
        self._held[folder].append(self._arrow.batch(page))
        self._n_held[folder] += page.n
        while sum(self._n_held.values()) > MAX_HELD:
            self._write(max(self._n_held, key=self._n_held.__getitem__))

    def _write(self, folder: Path) -> None:
        path = folder / f"part-{self._n_files[folder]}.parquet"
        with self._arrow.writer(str(path)) as writer:
            for group in self._arrow.groups(self._held.pop(folder)):
                writer.write_table(group)
        self._n_files[folder] += 1
        del self._n_held[folder]

    def close(self) -> None:
        for folder in list(self._held):
            self._write(folder)
