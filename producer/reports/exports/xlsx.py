"""Excel workbooks, row by row in constant memory. Texts are texts: nothing is read as formula, number or link."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC
from typing import IO, Any

from scanfleet.config.extras import install_hint
from scanfleet.errors import MissingExtra
from scanfleet.producer.reports.exports.columns import Column, Table
from scanfleet.producer.reports.exports.csv_pages import cells_of
from scanfleet.producer.reports.exports.page import Page, Values

SHEET_ROWS = 1_048_576  # the limit of a sheet, its header included
CELL_LETTERS = 32_767  # the limit of a cell
EXACT = 2**53  # Excel's numbers are doubles
TIME_FORMAT = "yyyy-mm-dd hh:mm:ss"


def write_xlsx(table: Table, file: IO[bytes], *, sheet_rows: int = SHEET_ROWS) -> int:
    """Write all rows and return their number; what a sheet cannot hold goes on in the next. Raises MissingExtra.

    Times are dates in UTC, which has no mark in Excel. Whole numbers that a double cannot hold are texts.
    """
    try:
        import xlsxwriter
    except ImportError:
        raise MissingExtra(f"XLSX needs XlsxWriter: {install_hint('xlsx')}") from None
    unread = dict.fromkeys(("strings_to_formulas", "strings_to_urls", "strings_to_numbers"), False)
    book = xlsxwriter.Workbook(file, {"constant_memory": True, **unread})
    book.use_zip64()
    n = 0
    with book:
        times = book.add_format({"num_format": TIME_FORMAT})
        sheet, row = _new_sheet(book, table), 0
        for page in table.pages():
            cells = [_cells(column, page) for column in table.columns]
            writers = [_WRITERS[column.kind](sheet, times) for column in table.columns]
            for values in zip(*cells, strict=True):
                row += 1
                if row == sheet_rows:
                    sheet, row = _new_sheet(book, table), 1
                    writers = [_WRITERS[column.kind](sheet, times) for column in table.columns]
                for number, value in enumerate(values):
                    if value is not None:
                        writers[number](row, number, value)
            n += page.n
    return n


def _new_sheet(book: Any, table: Table) -> Any:
    sheet = book.add_worksheet(f"results {len(book.worksheets()) + 1}" if book.worksheets() else "results")
    sheet.freeze_panes(1, 0)
    for number, name in enumerate(table.names):
        sheet.write_string(0, number, name)
    return sheet


def _cells(column: Column, page: Page) -> Values:
    """Return times as dates without a zone, numbers as they are, everything else as in CSV."""
    if column.kind in ("time", "integer", "real", "boolean"):
        values: Sequence[Any] = column.values(page)
        return [at and at.astimezone(UTC).replace(tzinfo=None) for at in values] if column.kind == "time" else values
    return cells_of(column, page)


Writer = Callable[[int, int, Any], Any]


def _texts(sheet: Any, _: Any) -> Writer:
    return lambda row, column, value: sheet.write_string(row, column, str(value)[:CELL_LETTERS])


def _numbers(sheet: Any, _: Any) -> Writer:
    def write(row: int, column: int, value: Any) -> None:
        if isinstance(value, float) or abs(value) <= EXACT:
            sheet.write_number(row, column, value)
        else:
            sheet.write_string(row, column, str(value))

    return write


def _booleans(sheet: Any, _: Any) -> Writer:
    return lambda row, column, value: sheet.write_boolean(row, column, value)


def _times(sheet: Any, form: Any) -> Writer:
    return lambda row, column, value: sheet.write_datetime(row, column, value, form)


_WRITERS: dict[str, Callable[[Any, Any], Writer]] = {
    **dict.fromkeys(("word", "text", "boxes", "box", "texts", "object"), _texts),
    **dict.fromkeys(("integer", "real"), _numbers),
    "boolean": _booleans,
    "time": _times,
}
