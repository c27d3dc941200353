"""Answers and failures, one per image, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from scanfleet.config.extras import install_hint
from scanfleet.config.settings import Settings
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.results import Result, iter_results
from scanfleet.db.schema import ledger
from scanfleet.db.tables import DECISIONS, IMAGE_STATES
from scanfleet.errors import MissingExtra
from scanfleet.producer.cli.queries.filters import resolve_filter
from scanfleet.producer.reports.exports.columns import open_table
from scanfleet.producer.reports.exports.formats import FORMATS, Export
from scanfleet.producer.reports.exports.parquet import read_arrow
from scanfleet.producer.reports.exports.places import write_export

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import sqlalchemy as sa

_WORDS = {"state": IMAGE_STATES, "decision": DECISIONS}
_LISTS = ("scan", "check", "model", "adapter", "reason", "state", "decision", "label")


class Results:
    """The images that match a filter, each with its answer or failure. Iterating reads them anew, page by page.

    filters: as the options of `scanfleet results ls`: scan, check, model, state, label, decision, reason, adapter (one
    or several), prefix, min_score, max_score, since, as_of (times with a zone), where (a mapping of manifest columns to
    values). Raises TypeError and ValueError for others, and, when it reads, UnknownName for a scan, check, model,
    adapter or reason that is not there, and DatabaseUnavailable.
    """

    def __init__(self, settings: Settings, filters: Mapping[str, Any]) -> None:
        known = {each.name for each in fields(ResultFilter)}
        for name in filters:
            if name not in known:
                raise TypeError(f"results have no filter {name!r}; there are {', '.join(sorted(known))}")
        given = {name: _several(value) if name in _LISTS else value for name, value in filters.items()}
        for name, words in _WORDS.items():
            for word in given.get(name, ()):
                if word not in words:
                    raise ValueError(f"{name} {word!r}: one of {', '.join(words)}")
        where = filters.get("where") or {}
        given["where"] = tuple(f"{key}={value}" for key, value in where.items())
        self._settings = settings
        self._given = given

    def __iter__(self) -> Iterator[Result]:
        with self._reading() as (engine, wanted):
            yield from iter_results(engine, wanted)

    def to_arrow(self) -> pa.Table:
        """Read all into a table with the columns and types of `results export --format parquet` (docs/exports.md).

        Raises MissingExtra (pyarrow is not installed).
        """
        with self._reading() as (engine, wanted):
            return read_arrow(open_table(engine, wanted))

    def to_pandas(self) -> pd.DataFrame:
        """Read all into a frame with the columns of `to_arrow`, one row per image.

        Types do not depend on the rows: whole numbers and booleans are Int64 and boolean, which keep empty cells as
        they are; words are categories. Raises MissingExtra (pandas or pyarrow is not installed).
        """
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtra(f"to_pandas needs pandas: {install_hint('pandas')}") from None
        kept = {"int64": pd.Int64Dtype(), "bool": pd.BooleanDtype()}
        frame: pd.DataFrame = self.to_arrow().to_pandas(types_mapper=lambda kind: kept.get(str(kind)))
        return frame

    def write(self, place: str | PathLike[str], *, format: str = "parquet", **options: Any) -> int:
        """Write all to a file or s3://bucket/key, as `results export` does, and return the number of lines.

        Args:
            format: one of those of the command. options: limit, columns, dotted and spreadsheet, as in `Export`.

        Raises: MissingExtra, UnknownName (a column), RequestError (the place cannot be written), ValueError (format).
        """
        if format not in FORMATS:
            raise ValueError(f"no format {format}: there are {', '.join(sorted(FORMATS))}")
        with self._reading() as (engine, wanted):
            chosen = Export(engine=engine, wanted=wanted, form=format, **options)
            return write_export(chosen, fspath(place), self._settings)

    @contextmanager
    def _reading(self) -> Iterator[tuple[sa.Engine, ResultFilter]]:
        with ledger(self._settings) as engine:
            yield engine, resolve_filter(engine, self._given)


def _several(value: Any) -> tuple[Any, ...]:
    """Return what may be one or several as several. None, of an adapter: the base model alone."""
    one = value is None or isinstance(value, str | int)
    return tuple("none" if each is None else str(each) for each in ((value,) if one else value))
