"""Answers and failures, one per image, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.results.results import Result, ResultFilter, iter_results
from scanfleet.db.scans.scans import get_scan
from scanfleet.db.schema import ledger


class Results:
    """The images that match a filter, each with its answer or failure. Iterating reads them anew, page by page.

    filters: fields of `ResultFilter`, as the options of `scanfleet results ls`: scan, state, label, decision, prefix,
    min_score, max_score, ... Reading raises UnknownName for a scan that does not exist, and DatabaseUnavailable.
    """

    def __init__(self, settings: Settings, filters: dict[str, Any]) -> None:
        self._settings = settings
        self._wanted = ResultFilter(**filters)

    def __iter__(self) -> Iterator[Result]:
        with ledger(self._settings) as engine:
            if self._wanted.scan is not None:
                with reading(engine) as connection:
                    get_scan(connection, self._wanted.scan)
            yield from iter_results(engine, self._wanted)
