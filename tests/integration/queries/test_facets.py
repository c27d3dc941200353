"""Counts of results by their fields: the same on both databases, and equal to a count by hand."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.queries.dimensions import NOT_A_DATE, read_dimensions
from scanfleet.db.queries.facets import count_by
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.results import iter_results
from scanfleet.db.tables import Verdict
from scanfleet.stats.proportions import wilson
from tests.integration.queries.test_filters import call
from tests.rigs.asked_rig import Asked


def counted(held: Asked, by: str, **wanted: Any) -> dict[tuple[str | None, ...], int]:
    with reading(held.archive.engine) as connection:
        found = count_by(connection, ResultFilter(**wanted), read_dimensions(by), limit=100)
    return {facet.values: facet.images for facet in found}


def test_results_are_counted_with_flags_reviews_and_failures(held: Asked) -> None:
    with reading(held.archive.engine) as connection:
        found = count_by(connection, ResultFilter(check="overlay"), read_dimensions("meta.campaign,check"), limit=100)
    # Since the rescan the margins are n - 7: 6 to 7 are reviews, 8 to 10 flags, and 11 failed.
    assert [
        (facet.values, facet.images, facet.answered, facet.flagged, facet.review, facet.failed) for facet in found
    ] == [(("autumn", "overlay"), 6, 5, 1, 1, 1), (("spring", "overlay"), 6, 6, 2, 1, 0)]
    assert found[1].flag_share.interval == wilson(2, 6)


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("check", {("overlay",): 12, ("baggage",): 4}),
        ("state,reason", {("verdict", None): 15, ("failed", "gone"): 1}),
        ("model,stage", {("fake", None): 15, ("fake", "fetch"): 1}),
        ("campaign", {("spring",): 8, ("autumn",): 8}),
        ("meta.price", {("3",): 8, ("3.5",): 4, (None,): 4}),
        ("ok", {("true",): 6, ("false",): 10}),
        ('größe "x"', {("0",): 8, ("1",): 8}),
        ("prefix(uri,1)", {("mem://a/",): 16}),
        ("prefix( uri , 2 )", {("mem://a/",): 16}),  # there is one folder only
        # Images 0 to 11 and 0 to 3; of five dates, the second lies in the next day and week of UTC, two are none.
        ("day(meta.published)", {("2026-11-02",): 4, ("2026-11-09",): 4, (NOT_A_DATE,): 6, (None,): 2}),
        ("week(published)", {("2026-11-02",): 4, ("2026-11-09",): 4, (NOT_A_DATE,): 6, (None,): 2}),
        ("month(published)", {("2026-11",): 8, (NOT_A_DATE,): 6, (None,): 2}),
        ("year(published),state", None),
    ],
)
def test_each_field_is_counted(held: Asked, by: str, found: dict[tuple[str | None, ...], int] | None) -> None:
    if found is None:
        assert sum(counted(held, by).values()) == 16
    else:
        assert counted(held, by) == found


def test_adapters_are_counted_by_id_and_a_base_alone_as_none(held: Asked) -> None:
    assert counted(held, "adapter") == {(str(held.second),): 11, ("none",): 4, (None,): 1}
    assert counted(held, "adapter", as_of=held.between) == {(str(held.first),): 11, (None,): 1}
    assert counted(held, "state", as_of=held.before) == {}


def test_times_of_answers_are_those_of_utc(held: Asked) -> None:
    answered = [each.scored_at for each in iter_results(held.archive.engine, ResultFilter(check="overlay"))]
    assert set(counted(held, "day(scored_at)", check="overlay")) == {(at and f"{at:%Y-%m-%d}",) for at in answered}
    with held.archive.engine.connect() as connection:  # of a copy, the time of the answer that it copies
        first = datetime(2020, 2, 3, 23, 30, tzinfo=UTC)
        connection.execute(sa.update(Verdict).values(computed_at=first))
        wanted = ResultFilter(check="overlay", state="verdict")
        (only,) = count_by(connection, wanted, read_dimensions("hour(scored_at)"), limit=100)
        assert only.values == ("2020-02-03 23:00",)
        connection.rollback()
    started = [held.archive.info(scan).created_at for scan in (held.scan, held.other)]
    assert set(counted(held, "hour(started_at)")) == {(f"{at:%Y-%m-%d %H}:00",) for at in started}


def test_lines_by_time_come_in_order_of_time(held: Asked) -> None:
    assert list(counted(held, "week(published)")) == [("2026-11-02",), ("2026-11-09",), (NOT_A_DATE,), (None,)]


def test_the_command_prints_every_format_and_applies_filters(held: Asked) -> None:
    code, out, _ = call(held, "facets", "--by", "decision", "--check", "overlay", "--format", "json")
    rows = {row["decision"]: row for row in json.loads(out)}
    assert code == 0
    assert (rows["flag"]["images"], rows["flag"]["flag_share"], rows[None]["failed"]) == (3, 1.0, 1)
    assert rows[None]["flag_share"] is None
    assert call(held, "facets", "--by", "check", "--format", "csv")[1].splitlines()[1].startswith("overlay,12,11,3,")
    code, out, said = call(held, "facets", "--by", "label,decision", "--limit", "1")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "only the first 1 lines" in said


@pytest.mark.parametrize(
    "by",
    ["", "a,,b", "decison", "week(colour)", "week()", "quarter(scored_at)", "prefix(uri,0)", "prefix(uri)", "meta."],
)
def test_what_is_no_field_is_answered_in_one_line(held: Asked, by: str) -> None:
    code, out, said = call(held, "facets", "--by", by)
    assert (code, out, said.count("\n")) == (2, "", 1)
    assert "--by" in said
