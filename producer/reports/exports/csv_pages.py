"""CSV of whole columns: the same bytes as row by row, several times as fast."""

from __future__ import annotations

from typing import IO

from scanfleet.producer.reports.exports.columns import Column, Table, as_cell, dumps
from scanfleet.producer.reports.exports.csv_text import csv_columns
from scanfleet.producer.reports.exports.page import Page, Values
from scanfleet.producer.reports.output import csv_bytes


def write_csv_pages(table: Table, file: IO[bytes], *, spreadsheet: bool = False) -> int:
    """Write a header and all rows, and return their number. spreadsheet: as in `producer.reports.output.write_csv`."""
    file.write(csv_header(table, spreadsheet=spreadsheet))
    n = 0
    for page in table.pages():
        file.write(csv_rows(table, page, spreadsheet=spreadsheet))
        n += page.n
    return n


def csv_header(table: Table, *, spreadsheet: bool) -> bytes:
    mark = "\ufeff".encode() if spreadsheet else b""
    return mark + csv_bytes([table.names], spreadsheet=spreadsheet)


def csv_rows(table: Table, page: Page, *, spreadsheet: bool) -> bytes:
    return csv_columns([cells_of(column, page) for column in table.columns], spreadsheet=spreadsheet)


def cells_of(column: Column, page: Page) -> Values:
    """Return a column as text and numbers: lists and objects as JSON, times as ISO 8601."""
    if column.field is not None:
        values = page.meta[column.field]
        if column.kind in ("integer", "real"):
            return values
        return [value if type(value) is str else as_cell(value) for value in values]
    values = column.values(page)
    if values is page.nothing:
        return values
    if column.kind == "time":
        return [None if value is None else value.isoformat() for value in values]
    if column.kind in ("boxes", "box", "texts", "object"):
        return [None if value is None else dumps(value) for value in values]
    return values
