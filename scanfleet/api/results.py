"""Answers and failures, one per image, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.results import Result, iter_results
from scanfleet.db.scans.scans import get_scan
from scanfleet.db.schema import ledger


class Results:
    """The images that match a filter, each with its answer or failure. Iterating reads them anew, page by page.

    filters: fields of `ResultFilter`, as the options of `scanfleet results ls`: scan, check, model, state, label,
    decision, reason (one or several), adapter (ids; None: the base alone), prefix, min_score, max_score, since, as_of
    (times with a zone), where (a mapping of manifest columns to values). Reading raises UnknownName for a scan that
    does not exist, and DatabaseUnavailable. Raises TypeError for another name.
    """

    def __init__(self, settings: Settings, filters: Mapping[str, Any]) -> None:
        where = filters.get("where") or ()
        pairs = where.items() if isinstance(where, Mapping) else where
        self._settings = settings
        self._wanted = ResultFilter(**{**filters, "where": tuple((key, str(value)) for key, value in pairs)})

    def __iter__(self) -> Iterator[Result]:
        with ledger(self._settings) as engine:
            yield from iter_results(engine, self._resolved(engine))

    def _resolved(self, engine: sa.Engine) -> ResultFilter:
        """Return the filter with whole ids of scans. Raises UnknownName."""
        scans = self._wanted.scan or ()
        given = [scans] if isinstance(scans, str) else scans
        with reading(engine) as connection:
            return replace(self._wanted, scan=tuple(get_scan(connection, each).id for each in given))
