"""`scanfleet scans`: what failed and how to fix it; pausing and ending a scan, and how long that takes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, reading
from scanfleet.db.results.results import ResultFilter, iter_results
from scanfleet.db.results.scorers import ScorerUse
from scanfleet.db.scans.scans import progress
from scanfleet.errors import UnknownName
from scanfleet.producer.reports.explanations import entry
from scanfleet.producer.reports.failures import n_chosen
from tests.helpers.cli_call import scanfleet
from tests.helpers.cli_process import start
from tests.rigs.ledger_rig import ledger_with_scan

FAILURES = (("fetch", "gone"), ("fetch", "gone"), ("decode", "kills_the_decoder"), ("process", "kills_the_worker"))


def scans(data_dir: Path, *arguments: str) -> tuple[int, str, str]:
    answer = scanfleet("scans", *arguments, data_dir=data_dir)
    assert "Traceback" not in answer.stderr
    return answer.returncode, answer.stdout, answer.stderr


@pytest.mark.parametrize("command", ["retry", "errors"])
@pytest.mark.parametrize("words", [("--reason", "nonsense"), ("--stage", "fetsch")])
def test_a_word_that_no_failure_has_is_refused_with_those_there_are(
    tmp_path: Path, command: str, words: tuple[str, str]
) -> None:
    scan_id = ledger_with_scan(tmp_path, failures=FAILURES)
    code, _, said = scans(tmp_path, command, scan_id, *words)
    assert code == 17
    assert said.count("\n") == 1
    assert " ".join(words) in said
    for there in ("fetch: gone (2)", "decode: kills_the_decoder (1)", "process: kills_the_worker (1)"):
        assert there in said


def test_a_stage_and_a_reason_that_do_not_meet_say_what_there_is(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, failures=FAILURES)
    code, _, said = scans(tmp_path, "retry", scan_id, "--stage", "fetch", "--reason", "kills_the_worker")
    assert code == 0
    assert "no failure has both" in said
    assert "fetch: gone (2)" in said


@pytest.mark.parametrize("words", [(), ("--reason", "gone")])
def test_where_nothing_failed_there_is_nothing_to_retry(tmp_path: Path, words: tuple[str, ...]) -> None:
    scan_id = ledger_with_scan(tmp_path)
    assert scans(tmp_path, "retry", scan_id, *words) == (0, "", f"scanfleet: scan {scan_id}: no failures to retry\n")


def test_a_retry_leaves_images_with_a_verdict_alone_and_says_who_goes_on(tmp_path: Path) -> None:
    def verdicts() -> list[object]:
        return list(iter_results(engine, ResultFilter(scan=scan_id, state="verdict")))

    scan_id = ledger_with_scan(tmp_path, failures=FAILURES, n_verdicts=3)
    engine = connect(load_settings(data_dir=tmp_path))
    before = verdicts()
    code, _, said = scans(tmp_path, "retry", scan_id)
    assert code == 0
    assert "4 images pending again; no live worker for model fake" in said
    assert "scanfleet worker score --model fake" in said
    assert len(before) == 3
    assert verdicts() == before
    with reading(engine) as connection:
        now = progress(connection, scan_id)
    assert (now.n_verdicts, now.n_failures, now.n_pending) == (3, 0, 4)
    engine.dispose()


@pytest.mark.parametrize("command", ["show", "errors"])
def test_quarantined_images_are_named_as_such(tmp_path: Path, command: str) -> None:
    scan_id = ledger_with_scan(tmp_path, failures=FAILURES)
    code, _, said = scans(tmp_path, command, scan_id)
    assert code == 0
    assert "quarantined: 2 images" in said
    assert "kills_the_decoder, kills_the_worker" in said
    assert f"scanfleet scans retry {scan_id} --reason" in said


def test_the_count_of_the_quarantined_is_there_for_programs_and_they_are_exported(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, failures=FAILURES)
    assert json.loads(scans(tmp_path, "show", scan_id, "--format", "json")[1])["quarantined"] == 2
    lines = scanfleet("results", "export", "--state", "failed", data_dir=tmp_path).stdout.splitlines()
    assert [json.loads(line)["failure"]["reason"] for line in lines] == [reason for _, reason in FAILURES]


def test_an_empty_quarantine_is_not_reported(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, failures=FAILURES[:2])
    assert "quarantined" not in "".join(map(str, scans(tmp_path, "show", scan_id)))


def test_errors_say_when_more_are_there_than_shown(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, failures=FAILURES)
    assert "2 of 4 images are shown" in scans(tmp_path, "errors", scan_id, "--limit", "2")[2]
    assert "are shown" not in scans(tmp_path, "errors", scan_id, "--reason", "gone", "--limit", "2")[2]


@pytest.mark.parametrize("command", ["retry", "errors"])
def test_the_help_names_every_stage_and_reason(tmp_path: Path, command: str) -> None:
    words = scans(tmp_path, command, "--help")[1].split()
    for word in ("fetch", "process", "too_slow", "too_much_memory", "kills_the_decoder", "kills_the_worker"):
        assert any(word == each.strip(",.") for each in words), word


def test_pausing_and_ending_say_what_becomes_of_batches_under_way(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, n_held=2, n_ready=1)
    paused = scans(tmp_path, "pause", scan_id)
    assert paused[0] == 0
    assert "2 batches under way are handed back within about 2 s" in paused[2]
    assert f"scanfleet scans resume {scan_id}" in paused[2]
    resumed = scans(tmp_path, "resume", scan_id)
    assert "only a paused scan can be resumed" in scans(tmp_path, "resume", scan_id)[2]
    assert "is running; no live worker for model fake" in resumed[2]
    ended = scans(tmp_path, "cancel", scan_id)
    assert "not scored: 3 images; workers drop the 2 batches under way within about 2 s" in ended[2]


@pytest.mark.parametrize("command", ["retry", "errors"])
def test_where_nothing_failed_only_a_word_that_does_not_exist_is_refused(tmp_path: Path, command: str) -> None:
    scan_id = ledger_with_scan(tmp_path)
    code, _, said = scans(tmp_path, command, scan_id, "--reason", "nonsense")
    assert (code, said.count("\n")) == (17, 1)
    assert "--reason nonsense: there is no such reason; known: gone, changed" in said
    assert scans(tmp_path, command, scan_id, "--stage", "fetch")[0] == 0


def test_without_failures_no_known_word_is_wrong() -> None:
    assert n_chosen({}, stage="fetch", reason="kills_the_worker") == 0
    with pytest.raises(UnknownName, match="no such stage"):
        n_chosen({}, stage="gone", reason=None)
    with pytest.raises(UnknownName):
        n_chosen({("fetch", "gone"): 1}, stage="gone", reason=None)


def test_a_scan_that_nobody_works_on_says_so_and_who_is_there(tmp_path: Path) -> None:
    ledger_with_scan(tmp_path, worker_queue="score.pocket")
    (tmp_path / "a.jpg").write_bytes(b"x")
    for model, words in (("fake", "(live: score.pocket)"), ("pocket", "")):
        scan = scanfleet("scan", "a.jpg", "--check", "overlay", "--model", model, data_dir=tmp_path)
        assert scan.returncode == 0
        assert (f"no live worker for model {model}" in scan.stderr) == (model == "fake")
        assert words in scan.stderr


CALIBRATOR = {"a": 0.8, "b": 0.1, "n": 1420, "prevalence": 0.25, "method": "platt"}


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ({}, ("flag: margin of 0 or more, no certified threshold", "score: none")),
        ({"calibrator": CALIBRATOR}, ("flag: score of 0.5 or more", "platt calibration on 1420 images, 25% of which")),
        (
            {"calibrator": CALIBRATOR, "thresholds": {"review": -3.7346, "flag": None}},
            (
                "flag: never, no threshold could be certified at 25 % positives; "
                "clear: margin under -3.735; else review",
            ),
        ),
        (
            {"calibrator": CALIBRATOR, "thresholds": {"review": -3.7346, "flag": 1.25}},
            ("flag: margin of +1.250 or more, certified at 25 % positives; clear: margin under -3.735",),
        ),
        ({"thresholds": {"review": None, "flag": 1.25}}, ("flag: margin of +1.250 or more; clear: never",)),
    ],
)
def test_show_and_the_report_tell_how_decisions_and_scores_come_about(
    tmp_path: Path, scorer: dict[str, Any], words: tuple[str, ...]
) -> None:
    scan_id = ledger_with_scan(tmp_path, n_verdicts=3, **scorer)
    shown = scans(tmp_path, "show", scan_id)[1]
    assert scans(tmp_path, "report", scan_id, "-o", str(tmp_path / "sheet.html"))[0] == 0
    sheet = " ".join((tmp_path / "sheet.html").read_text().split())
    assert "scored by fake (fp32), no adapter: 3 images" in shown
    assert "Scored by fake (fp32), no adapter: 3 images." in sheet
    for each in words:
        assert each in shown
        assert each.lower() in sheet.lower()
    (found,) = json.loads(scans(tmp_path, "show", scan_id, "--format", "json")[1])["scorers"]
    given = {"calibrator": None, "thresholds": None} | scorer
    assert {name: found[name] for name in given} == given
    assert found["n_images"] == 3


def test_a_check_without_flags_has_another_rule() -> None:
    spec = {"id": 1, "base_model": "m", "base_revision": "r", "precision": "nf4", "adapter": "a" * 64}
    told = entry(ScorerUse(**spec, calibrator=None, thresholds=None, n_images=1), has_flags=False)
    assert (told.who, told.decision) == (
        "m (nf4), adapter aaaaaaaaaaaa",
        "review: the top label has less than half of the probability",
    )


def test_the_share_of_positives_in_the_archive_stands_beside_decisions_and_scores() -> None:
    thresholds = {"review": -1.0, "flag": None}
    spec = {"id": 1, "base_model": "m", "base_revision": "r", "precision": "fp32", "adapter": "a" * 64}
    use = ScorerUse(**spec, calibrator=CALIBRATOR, thresholds=thresholds, n_images=1)
    told = entry(use, has_flags=True, prevalence=0.02)
    assert "no threshold could be certified at 2 % positives" in told.decision
    assert told.score.endswith("25% of which should be flagged; stated for an archive at 2 % positives")
    kept = entry(replace(use, thresholds={"review": -1.0, "flag": 3.0}), has_flags=True, prevalence=0.02)
    assert "margin of +3.000 or more, certified at 2 % positives" in kept.decision


def test_an_empty_id_is_no_start_of_an_id(tmp_path: Path) -> None:
    ledger_with_scan(tmp_path)
    code, _, said = scans(tmp_path, "show", "")
    assert (code, said) == (17, "scanfleet: the id of a scan is needed: `scanfleet scans ls` lists them\n")


def test_an_empty_answer_says_that_it_is_empty(tmp_path: Path) -> None:
    listed = scans(tmp_path, "ls")
    assert "scan  check" in listed[1]
    assert "no scan yet" in listed[2]
    scan_id = ledger_with_scan(tmp_path)
    assert scans(tmp_path, "ls")[2] == ""
    assert scans(tmp_path, "errors", scan_id)[2] == f"scanfleet: scan {scan_id}: no failures\n"
    assert "no image matches" in scanfleet("results", "ls", "--label", "zz", data_dir=tmp_path).stderr


def test_watching_a_scan_that_nobody_works_on_says_so(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, n_ready=1)
    watch = start("scans", "watch", scan_id, data_dir=tmp_path)
    try:
        assert watch.stderr is not None
        assert "no live worker for model fake" in watch.stderr.readline()
    finally:
        watch.kill()
        watch.communicate()
