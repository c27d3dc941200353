"""A choice of columns of results, by the names that CSV exports have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scanfleet.db.results.results import Result

META = ("meta_", "meta.")  # before the name of a column of the manifest


def read_columns(text: str) -> list[str]:
    """Return the names of columns. Raises RequestError for one that no result has."""
    from scanfleet.errors import RequestError
    from scanfleet.producer.reports.exports.columns import COLUMNS

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in COLUMNS and not (name.startswith(META) and name not in META):
            known = f"{', '.join(COLUMNS)}, and meta_NAME for a column of the manifest"
            raise RequestError(f"--columns {name}: there is no such column; there are {known}")
    if not names:
        raise RequestError("--columns: name one at least, as in uri,score")
    return list(dict.fromkeys(names))


def as_rows(shown: Iterable[Result], names: Sequence[str]) -> list[list[Any]]:
    """Return the values of these columns, one list for each result."""
    from scanfleet.producer.reports.export import as_flat

    fields = {name: name[len(META[0]) :] for name in names if name.startswith(META)}
    columns = {field: f"{META[0]}{field}" for field in fields.values()}  # two spellings may name one field
    flats = (as_flat(each, columns) for each in shown)
    return [[flat[columns[fields[name]] if name in fields else name] for name in names] for flat in flats]
