"""CSV of columns has the bytes of the csv module."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scanfleet.producer.reports.exports.csv_text import csv_columns
from scanfleet.producer.reports.output import csv_bytes

cells = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.sampled_from(',"\r\n =-\\é;\t'), max_size=4)
)
columns = st.integers(1, 4).flatmap(
    lambda n: st.lists(
        st.lists(cells, min_size=n, max_size=n) | cells.map(lambda cell: [cell] * n), min_size=1, max_size=5
    )
)


@given(columns, st.booleans())
def test_columns_are_written_as_rows_are(given: list[list[Any]], spreadsheet: bool) -> None:
    rows = csv_bytes(zip(*given, strict=True), spreadsheet=spreadsheet)
    assert csv_columns(given, spreadsheet=spreadsheet) == rows


def test_equal_numbers_that_are_written_differently_stay_apart() -> None:
    assert csv_columns([[0.0, -0.0], [1, True], ["a", "a"]]) == b"0.0,1,a\n-0.0,True,a\n"
