"""The quick ways to the first results find what a walk through all images finds."""

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.queries import by_batch
from scanfleet.db.queries.listing import count_uncalibrated, first_results, top_results
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.results import Result, iter_results
from tests.rigs.asked_rig import Asked

WANTED: dict[str, dict[str, Any]] = {
    "all": {},
    "tried": {"tried": True},
    "failed": {"state": "failed"},
    "pending": {"state": ("pending", "cancelled")},
    "answered or failed": {"state": ("verdict", "failed")},
    "flag": {"decision": "flag"},
    "clear": {"decision": "clear"},
    "review or flag": {"decision": ("review", "flag")},
    "label": {"label": "overlay"},
    "no such label": {"label": "nosuch"},
    "part of a label": {"label": "verlay"},
    "reason": {"reason": "broken"},
    "flag of a check": {"decision": "flag", "check": "baggage"},
    "flag below a prefix": {"decision": "flag", "prefix": "mem://"},
    "above": {"min_score": 0.5},
    "between": {"min_score": 0.2, "max_score": 0.9},
    "above, of a field": {"min_score": 0.2, "where": (("campaign", "spring"),)},
    "flag, with rescans": {"decision": "flag", "rescans": True},
}


@pytest.mark.parametrize("of", ["every scan", "scan", "rescan", "two scans"])
@pytest.mark.parametrize("name", WANTED)
def test_the_first_results_are_those_of_a_walk(held: Asked, of: str, name: str) -> None:
    scans = {"scan": held.scan, "rescan": held.rescan, "two scans": (held.other, held.scan)}
    wanted = ResultFilter(**WANTED[name], scan=scans.get(of))
    engine = held.archive.engine
    every = list(iter_results(engine, wanted))
    for limit in (1, 3, 1000):
        assert first_results(engine, wanted, limit=limit) == every[:limit]
    with reading(engine) as connection:
        for limit in (1, 3, 1000):
            assert top_results(connection, wanted, limit=limit) == sorted(every, key=_by_score)[:limit]
        unbounded = replace(wanted, min_score=None, max_score=None)
        without = [each for each in iter_results(engine, unbounded) if each.decision and each.score is None]
        assert count_uncalibrated(connection, wanted) == len(without)


def _by_score(result: Result) -> tuple[Any, ...]:
    margin = (result.margin is None, -(result.margin or 0.0))
    return (result.score is None, -(result.score or 0.0), *margin, result.image_id)


def test_batches_without_a_match_are_not_read(held: Asked) -> None:
    """Only the one with the failure."""
    with reading(held.archive.engine) as connection:
        which = by_batch.holding(connection, ResultFilter(state="failed"))
        read = [batch for chunk in by_batch._chunks(connection, held.scan, which, size=1) for batch in chunk]
        failed = connection.execute(sa.text("select batch_id from images where state = 'failed'")).scalars().all()
    assert read == failed
