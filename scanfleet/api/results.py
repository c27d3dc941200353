"""Answers and failures, one per image, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from scanfleet.config.extras import install_hint
from scanfleet.config.settings import Settings
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.results import Result, iter_results
from scanfleet.db.schema import ledger
from scanfleet.db.tables import DECISIONS, IMAGE_STATES
from scanfleet.errors import MissingExtra
from scanfleet.producer.cli.queries.filters import resolve_filter

if TYPE_CHECKING:
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

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table: the columns and types of `results export --format parquet`. Raises MissingExtra."""
        from scanfleet.producer.reports.exports.columns import open_table
        from scanfleet.producer.reports.exports.parquet import Arrow

        with self._reading() as (engine, wanted):
            table = open_table(engine, wanted)
            return Arrow(table).whole(table.pages())

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with a row per image, as `to_arrow`. Raises MissingExtra."""
        try:
            import pandas  # noqa: F401 - Arrow needs it for the next step
        except ImportError:
            raise MissingExtra(f"to_pandas needs pandas and pyarrow: {install_hint('parquet')}, and pandas") from None
        return self.to_arrow().to_pandas()

    @contextmanager
    def _reading(self) -> Iterator[tuple[sa.Engine, ResultFilter]]:
        with ledger(self._settings) as engine:
            yield engine, resolve_filter(engine, self._given)


def _several(value: Any) -> tuple[Any, ...]:
    """Return what may be one or several as several. None, of an adapter: the base model alone."""
    one = value is None or isinstance(value, str | int)
    return tuple("none" if each is None else str(each) for each in ((value,) if one else value))
