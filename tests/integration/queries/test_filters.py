"""Every filter of results on both databases, after a failure and a rescan, in the library and on the command line."""

import csv
import io
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.queries.listing import top_results
from scanfleet.db.results.filters import OVERLAP, ResultFilter
from scanfleet.db.results.portable import starts_with, successor
from scanfleet.db.results.results import iter_results
from scanfleet.db.tables import Image
from scanfleet.producer.reports.contact_sheet import write_report
from scanfleet.producer.reports.sheet.pictures import Picture, Pictures
from tests.helpers.cli_call import scanfleet
from tests.rigs.asked_rig import Asked
from tests.rigs.rescan_rig import uri

QUOTED = 'größe "x"'


def numbers(held: Asked, wanted: ResultFilter) -> list[int]:
    """The images that match, by number; those of the other check from 100 on."""
    found = iter_results(held.archive.engine, wanted, page_images=3)
    return [int(each.uri[-5:]) + (100 if each.check == "baggage" else 0) for each in found]


def call(held: Asked, *arguments: str) -> tuple[int, str, str]:
    settings = held.archive.settings
    done = scanfleet("results", *arguments, data_dir=settings.data_dir, database_url=settings.database)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def listed(held: Asked, *arguments: str) -> list[int]:
    code, out, err = call(held, "ls", "--format", "jsonl", *arguments)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    return [int(row["uri"][-5:]) + (100 if row["check"] == "baggage" else 0) for row in rows]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"decision": ("flag", "review"), "check": "overlay"}, [6, 7, 8, 9, 10]),  # margins of the rescan: -1 to 3
        ({"decision": "clear", "label": ("overlay",)}, []),
        ({"state": ("failed", "pending")}, [11]),
        ({"reason": "gone"}, [11]),
        ({"reason": ("empty",)}, []),
        ({"check": "baggage"}, [100, 101, 102, 103]),
        ({"model": "fake", "check": ("baggage", "overlay"), "where": [("n", "1")]}, []),
        ({"model": "other"}, []),
        ({"where": [("campaign", "autumn")], "check": "baggage"}, [101, 103]),
        ({"where": [("campaign", "spring"), ("campaign", "autumn")], "check": "baggage"}, [100, 101, 102, 103]),
        ({"where": [("campaign", "Spring")]}, []),
        ({"where": [("price", "3")], "check": "overlay"}, [0, 2, 4, 6, 8, 10]),  # 3 and "3"
        ({"where": [("price", "3.00")], "check": "overlay"}, [0, 4, 8]),  # a number, no text
        ({"where": [("price", "3.5")], "check": "overlay"}, [1, 5, 9]),
        ({"where": [("price", "")], "check": "overlay"}, [3, 7, 11]),
        ({"where": [("ok", "True")], "check": "overlay"}, [0, 3, 6, 9]),
        ({"where": [("ok", "false"), ("campaign", "spring")], "check": "baggage"}, [102]),
        ({"where": [(QUOTED, "1")], "check": "baggage"}, [101, 103]),
        ({"where": [("nothing", "1")]}, []),
        ({"prefix": "mem://a/0001"}, [10, 11]),
        ({"prefix": "MEM://a/0001"}, []),
        ({"prefix": "mem://a/%"}, []),
    ],
)
def test_each_filter_finds_what_it_names(held: Asked, wanted: dict[str, Any], found: list[int]) -> None:
    assert numbers(held, ResultFilter(**wanted)) == found


def test_several_scans_are_asked_for_at_once(held: Asked) -> None:
    assert len(numbers(held, ResultFilter(scan=[held.scan, held.other]))) == 16
    assert listed(held, "--scan", held.scan, "--scan", held.other) == [*range(12), 100, 101, 102, 103]
    assert listed(held, "--scan", held.other, "--decision", "clear", "--decision", "flag") == [100, 101, 102, 103]


def test_an_adapter_is_named_by_id_by_hash_or_none(held: Asked) -> None:
    assert listed(held, "--adapter", str(held.second)) == list(range(11))
    assert listed(held, "--adapter", "BBB") == list(range(11))
    assert listed(held, "--adapter", "none") == [100, 101, 102, 103]  # the adapters are of the other check
    assert listed(held, "--adapter", "none", "--adapter", "aa") == [100, 101, 102, 103]
    code, _, said = call(held, "ls", "--adapter", "cc")
    assert (code, said.count("\n")) == (17, 1)


def test_as_of_a_time_shows_what_was_said_then(held: Asked) -> None:
    margins = {each.uri: each.margin for each in iter_results(held.archive.engine, ResultFilter(as_of=held.between))}
    assert margins == {uri(number): number - 5.0 for number in range(11)} | {uri(11): None}  # nothing of the other scan
    today = {each.uri: each.margin for each in iter_results(held.archive.engine, ResultFilter(check="overlay"))}
    assert today == {uri(number): number - 7.0 for number in range(11)} | {uri(11): None}
    late = held.between + timedelta(days=1)
    assert numbers(held, ResultFilter(as_of=late)) == numbers(held, ResultFilter())
    assert {each.margin for each in iter_results(held.archive.engine, ResultFilter(as_of=late, check="overlay"))} == {
        *today.values()
    }
    assert numbers(held, ResultFilter(as_of=held.before)) == []
    assert numbers(held, ResultFilter(as_of=held.between, decision="flag")) == [6, 7, 8, 9, 10]
    assert numbers(held, ResultFilter(as_of=held.between, state="failed")) == [11]
    assert listed(held, "--as-of", held.between.isoformat(), "--decision", "flag") == [6, 7, 8, 9, 10]


def test_the_sheet_of_a_time_shows_the_answers_that_stood_then(
    held: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pictures, "drawn", lambda *_: Picture())  # mem:// has no store
    page, archive = tmp_path / "sheet.html", held.archive
    wanted = ResultFilter(as_of=held.between, decision="flag")
    write_report(archive.engine, archive.settings, held.scan, page, wanted=wanted)
    cards = re.findall(r'data-name="(\d+)"[^>]* data-margin="([^"]+)"', page.read_text())
    assert {int(name): float(margin) for name, margin in cards} == {number: number - 5.0 for number in range(6, 11)}


def test_since_finds_what_changed_and_an_export_looks_back_further(held: Asked) -> None:
    engine = held.archive.engine
    assert numbers(held, ResultFilter(since=held.between)) == [*range(11), 100, 101, 102, 103]  # 11 failed before
    assert numbers(held, ResultFilter(since=held.before)) == [*range(12), 100, 101, 102, 103]
    newest = max(each.scored_at for each in iter_results(engine, ResultFilter()) if each.scored_at)
    after = (newest + timedelta(seconds=1)).isoformat()
    assert listed(held, "--since", after) == []
    assert len(call(held, "export", "--since", after)[1].splitlines()) == 16
    assert call(held, "export", "--since", (newest + OVERLAP + timedelta(seconds=1)).isoformat())[1] == ""


def test_the_first_by_a_column_come_first_and_those_without_a_value_last(held: Asked) -> None:
    def first(sort: str, limit: int = 3, **wanted: Any) -> list[int]:
        with reading(held.archive.engine) as connection:
            found = top_results(connection, ResultFilter(check="overlay", **wanted), limit=limit, sort=sort)
        return [int(each.uri[-5:]) for each in found]

    assert first("margin") == [10, 9, 8]
    assert first("-margin") == [0, 1, 2]
    assert first("margin", limit=12)[-1] == 11
    assert first("-margin", limit=12)[-1] == 11
    assert first("-uri") == [11, 10, 9]
    assert first("score", prefix="mem://a/0000") == [9, 8, 7]  # without scores, margins decide
    assert listed(held, "--sort", "-uri", "--limit", "2", "--check", "overlay") == [11, 10]


def test_columns_are_chosen_by_name(held: Asked) -> None:
    chosen = ("--check", "baggage", "--columns", "uri, meta.campaign,margin,check,meta_campaign", "--limit", "2")
    code, out, _ = call(held, "ls", *chosen, "--format", "csv")
    assert code == 0
    assert list(csv.reader(io.StringIO(out))) == [
        ["uri", "meta.campaign", "margin", "check", "meta_campaign"],
        [uri(0), "spring", "-5.0", "baggage", "spring"],
        [uri(1), "autumn", "-4.0", "baggage", "autumn"],
    ]
    header = call(held, "ls", *chosen)[1].splitlines()[0].split()
    assert header == ["uri", "meta.campaign", "margin", "check", "meta_campaign"]


def test_a_list_names_the_check_only_where_several_are_in_it(held: Asked) -> None:
    assert call(held, "ls")[1].splitlines()[0].split()[:3] == ["scan", "check", "state"]
    assert "check" not in call(held, "ls", "--check", "overlay")[1].splitlines()[0]


def test_a_bound_of_the_score_says_what_it_leaves_out(held: Asked) -> None:
    code, out, said = call(held, "ls", "--min-score", "0.5", "--check", "baggage", "--format", "csv")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "4 answers without a calibrated score left out" in said
    assert "calibrated" not in call(held, "ls", "--check", "baggage")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--where", "campaign"), 2, "campaign=spring"),
        (("--where", "meta.=3"), 2, "campaign=spring"),
        (("--since", "yesterday"), 2, "24h"),
        (("--as-of", "2026-13-01"), 2, "2026-05-01"),
        (("--sort", "colour"), 2, "-score"),
        (("--columns", "colour"), 2, "meta_NAME"),
        (("--check", "gun"), 17, "baggage, overlay"),
        (("--model", "big"), 17, "fake"),
        (("--reason", "bored"), 17, "truncated"),
        (("--scan", "zzz"), 17, "scans ls"),
    ],
)
def test_a_bad_value_is_answered_in_one_line(held: Asked, arguments: tuple[str, ...], code: int, words: str) -> None:
    found, out, said = call(held, "ls", *arguments)
    assert (found, out, said.count("\n")) == (code, "", 1)
    assert words in said


def test_a_prefix_ends_where_the_next_text_begins() -> None:
    assert successor("a\ud7ff") == "a\ue000"
    assert successor("\U0010ffff") is None


def test_a_prefix_is_served_by_an_index(held: Asked) -> None:
    query = sa.select(Image.id).where(starts_with(Image.uri, "mem://a/00"))
    text = str(query.compile(held.archive.engine, compile_kwargs={"literal_binds": True}))
    with held.archive.engine.connect() as connection:
        trial = connection.begin()
        pattern = "text_pattern_ops" if connection.dialect.name == "postgresql" else ""
        connection.execute(sa.text(f"CREATE INDEX of_names ON images (uri {pattern})"))
        if pattern:
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN" if pattern else "EXPLAIN QUERY PLAN"
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"{explain} {text}".replace("%", "%%")))
        trial.rollback()
    assert ("Index Cond" in plan and "~>=~" in plan and "~<~" in plan) if pattern else "uri>? AND uri<?" in plan
