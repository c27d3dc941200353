"""What commands print: columns, progress, figures."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from scanfleet.db.queries.scan_sums import FrameCounts
from scanfleet.db.scans.scans import Progress, ScanInfo
from scanfleet.producer.cli.progress import LineDisplay, listing_text, scoring_text
from scanfleet.producer.cli.scans.outcome import echo_agreement, echo_summary
from scanfleet.producer.cli.scans.run import _conclude
from scanfleet.producer.cli.scans.scan import report_listing
from scanfleet.producer.cli.tables import count, echo_table, size_text
from scanfleet.producer.reports.agreement import Agreement
from scanfleet.producer.reports.summary import Summary
from scanfleet.producer.scans.enqueue import Enqueued
from scanfleet.producer.scans.wait import ScanSnapshot
from scanfleet.stats.stage_times import StageTimes


def scan(state: str = "running") -> ScanInfo:
    return ScanInfo(
        id="abc",
        check="overlay",
        check_id=1,
        model="pocket",
        queue="score.pocket",
        sources=("/a",),
        filters={},
        state=state,
        cursor=None,
        n_listed=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        finished_at=None,
    )


def progress(**more: Any) -> Progress:
    given: dict[str, Any] = dict.fromkeys(
        ("n_verdicts", "n_failures", "n_cancelled", "n_reused", "n_flagged", "n_review", "n_batches", "n_leased"), 0
    )
    return Progress(**(given | {"n_images": 10, "waiting_for": None} | more))


def page(n: int, *, ended: bool = False) -> Enqueued:
    return Enqueued(scans=(scan(),), n_listed=n, n_new=n, n_skipped=0, broker_away=False, ended=ended)


def test_columns_are_aligned_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(("name", "n"), [("a", 5), ("longer\x1b[1m", 1234), (None, 0.5)])
    assert capsys.readouterr().out.splitlines() == [
        "name                n",
        "a                   5",
        "longer\\x1b[1m    1234",
        "-              0.5000",
    ]
    echo_table(("name", "n"), [])
    assert capsys.readouterr().out == "name  n\n"


def test_counts_and_sizes() -> None:
    assert [count(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [size_text(n) for n in (0, 999, 1500, 2_000_000, 3 * 10**15)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.0 MB",
        "3000.0 TB",
    ]


def test_progress_says_what_holds_it_up() -> None:
    done = progress(n_verdicts=4, n_flagged=1, n_failures=2, waiting_for="store: away")
    words = scoring_text(ScanSnapshot(scan=scan("paused"), progress=done))
    assert words.startswith("6 of 10 images: 4 scored (1 flagged, 0 to review), 2 failed, paused")
    assert words.endswith("waiting for: store: away")
    assert "waiting" not in scoring_text(ScanSnapshot(scan=scan("cancelled"), progress=done))


def test_plain_lines_are_few_and_the_last_one_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with LineDisplay(every_seconds=1000) as display:
        for n in range(100):
            display.listed(page(n))
        display.listed(page(100, ended=True))
        display.scored(ScanSnapshot(scan=scan("done"), progress=progress(n_verdicts=10)))
        display.scored(ScanSnapshot(scan=scan("done"), progress=progress(n_verdicts=10)))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "listing: 100 listed, 100 new",
        "scoring: 10 of 10 images: 10 scored (0 flagged, 0 to review)",
    ]


def test_a_summary_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    done = progress(n_verdicts=5, n_reused=2, n_failures=1, n_cancelled=3)
    summary = Summary(
        scan=scan("cancelled"),
        progress=done,
        answers={("flag", "overlay"): 5},
        failures={("decode", "truncated"): 1},
        scorers=[],
        explanations=[],
        times=StageTimes(sums={"scored": 5, "under_way": 1.25}),
        flags=("overlay",),
        frames=FrameCounts(n_files=2, n_partly=1, n_frames=20, n_scored=16),
        no_boxes=None,
    )
    echo_summary(summary, seconds=2.0)
    assert capsys.readouterr().out.splitlines() == [
        "scan abc: check overlay, model pocket, cancelled",
        "10 images: 5 scored (2 of them have the same bytes as images scored before), 1 failed, 3 cancelled, 1 pending",
        "2.0 s including start-up (3.0 images/s), 4.0 images/s per worker while it had batches",
        "",
        "decision  label    images",
        "flag      overlay       5",
        "2 files with several pictures: 16 of 20 scored; 1 file not in full, so never clear",
        "",
        "failed at  reason     images",
        "decode     truncated       1",
    ]


@pytest.mark.parametrize(
    ("n_pending", "state", "words"),
    [
        (0, "done", "already holds these images (--fresh"),
        (7, "running", "already holds these images and resumes (7 pending"),
        (7, "paused", "already holds these images (7 pending"),
    ],
)
def test_a_scan_with_nothing_new_says_whether_it_goes_on(
    capsys: pytest.CaptureFixture[str], n_pending: int, state: str, words: str
) -> None:
    listed = Enqueued(scans=(scan(state),), n_listed=10, n_new=0, n_skipped=0, broker_away=False, ended=True)
    report_listing(listed, n_pending=n_pending)
    assert capsys.readouterr().err.startswith(f"scanfleet: nothing new: scan abc {words}")


def test_a_glob_that_excludes_nothing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    report_listing(replace(page(3, ended=True), idle_excludes=("thumb/*",)), n_pending=3)
    assert "--exclude thumb/* matched nothing" in capsys.readouterr().err


@pytest.mark.parametrize(("marked", "hint"), [({}, False), ({"n_flagged": 1}, True), ({"n_review": 1}, True)])
def test_a_contact_sheet_is_offered_where_it_would_show_something(
    capsys: pytest.CaptureFixture[str], marked: dict[str, int], hint: bool
) -> None:
    unused: Any = None
    _conclude(unused, ScanSnapshot(scan=scan("done"), progress=progress(**marked)), truth=None, report=None)
    assert ("contact sheet" in capsys.readouterr().err) == hint


def test_figures_come_with_their_counts_and_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    found = Agreement(("overlay", "none"), ("overlay",))
    for truth, label, decision in (
        ("overlay", "overlay", "flag"),
        ("overlay", "none", "clear"),
        ("none", "none", "clear"),
        ("overlay", None, None),
        ("?", "none", "clear"),
    ):
        found.add(truth, label=label, decision=decision)
    echo_agreement(found, column="truth")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:5] == ["         overlay  none", "overlay        1     1", "none           0     1"]
    assert "accuracy: 0.6667 (2 of 3; 95 % interval 0.2077 to 0.9385)" in lines
    assert "precision of flags: 1.0000 (1 of 1; 95 % interval 0.2065 to 1.0000)" in lines
    assert "recall of flags: 0.5000 (1 of 2; 95 % interval 0.0945 to 0.9055)" in lines
    assert lines[-2].endswith("1 image with a known truth but no verdict, of which 1 should have been flagged")
    assert lines[-1] == "not counted: 1 image with no label of the check in column truth"


def test_without_flags_no_precision_is_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    echo_agreement(Agreement(("rose", "lily"), ()), column="truth")
    printed = capsys.readouterr().out
    assert "accuracy: undefined (0 images)" in printed
    assert "precision" not in printed


def test_a_listing_that_ends_at_a_limit_says_what_it_took() -> None:
    limited = replace(scan(), filters={"limit": 5})
    assert listing_text(replace(page(5), scans=(limited,), n_listed=64)) == "5 new (--limit 5)"
    assert listing_text(page(7)) == "7 listed, 7 new"
