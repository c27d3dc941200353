"""The output for a scan without workers, for one that has ended, and for answers that need an explanation."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.tables import Batch, Verdict
from tests.helpers.cli_call import scanfleet
from tests.rigs.ledger_rig import ledger_with_scan


def scans(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return scanfleet("scans", *arguments, data_dir=data_dir)


def change(data_dir: Path, statement: sa.Update) -> None:
    engine = connect(load_settings(data_dir=data_dir))
    with transaction(engine) as connection:
        connection.execute(statement)
    engine.dispose()


@pytest.mark.parametrize(("queue", "state"), [("score.pocket", "no worker"), ("score.fake", "running")])
def test_a_running_scan_that_nobody_works_on_is_listed_as_such(tmp_path: Path, queue: str, state: str) -> None:
    scan_id = ledger_with_scan(tmp_path, n_ready=1, worker_queue=queue)
    row = scans(tmp_path, "ls").stdout.splitlines()[1]
    assert re.split(r"\s{2,}", row)[3] == state
    assert json.loads(scans(tmp_path, "ls", "--format", "json").stdout)[0]["state"] == "running"
    assert ("no live worker for model fake" in scans(tmp_path, "show", scan_id).stderr) == (state == "no worker")


def test_the_end_of_a_wait_is_summed_up_beside_the_data(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, n_verdicts=3)
    ended = scans(tmp_path, "watch", scan_id)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "scanfleet: flag overlay 3\n" in ended.stderr
    assert f"scanfleet results ls --scan {scan_id}" in ended.stderr
    assert f"scanfleet scans report {scan_id}" in ended.stderr


@pytest.mark.parametrize(("label", "decision", "explained"), [
    ("overlay", "flag", False), ("none", "flag", True), ("overlay", "clear", True), ("overlay", "review", False),
])  # fmt: skip
def test_a_decision_that_the_label_contradicts_is_explained(
    tmp_path: Path, label: str, decision: str, explained: bool
) -> None:
    scan_id = ledger_with_scan(tmp_path)
    change(tmp_path, sa.update(Verdict).values(label=label, decision=decision))
    change(tmp_path, sa.update(Batch).values(tally=None))
    assert ("weighs all flagging labels together" in scans(tmp_path, "show", scan_id).stdout) == explained


def test_boxes_that_nobody_was_asked_for_are_named_once(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, n_verdicts=3)
    assert "no boxes" not in scans(tmp_path, "show", scan_id).stdout
    change(tmp_path, sa.update(Verdict).values(box_problems=["it was not taught\x1b"]))
    assert scans(tmp_path, "show", scan_id).stdout.count("no boxes: it was not taught\\x1b\n") == 1


def test_drift_says_where_verdicts_are_too_few(tmp_path: Path) -> None:
    ledger_with_scan(tmp_path)
    row = scanfleet("drift", data_dir=tmp_path).stdout.splitlines()[4]
    assert re.split(r"\s{2,}", row)[3] == "too few"


def test_images_that_nobody_tried_are_listed_when_asked_for(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, n_verdicts=2, failures=(("fetch", "gone"),), n_ready=4)

    def states(*arguments: str) -> list[str]:
        answer = scanfleet("results", "ls", "--format", "jsonl", *arguments, data_dir=tmp_path)
        return sorted(json.loads(line)["state"] for line in answer.stdout.splitlines())

    assert states() == ["failed", "verdict", "verdict"]
    assert states("--state", "pending") == ["pending"] * 4
    assert len(states("--scan", scan_id)) == 7
    assert len(scanfleet("results", "export", data_dir=tmp_path).stdout.splitlines()) == 7


def test_an_export_over_all_scans_names_those_whose_answers_cannot_be_relied_on(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path)
    for scan in ([], ["--scan", scan_id], ["--check", "baggage"]):
        said = scanfleet("results", "export", "--format", "jsonl", *scan, data_dir=tmp_path).stderr
        assert ("no adapter answered (zero-shot)" in said) == (scan[:1] != ["--check"])
