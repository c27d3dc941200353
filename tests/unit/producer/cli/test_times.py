"""`scanfleet scans show` says where the time went, in words and as JSON."""

import json
from pathlib import Path

import pytest

from scanfleet.db.engine import transaction
from scanfleet.db.scans.workers import beat, start_worker, stop_worker
from scanfleet.producer.cli.scans.times import echo_times
from scanfleet.stats.stage_times import StageTimes
from tests.helpers.cli_call import scanfleet
from tests.rigs.ledger_rig import ledger_with_scan
from tests.rigs.worker_rig import png, rig

STARVED = {
    "fetch": 6.0, "decode": 50.0, "prepare": 10.0, "threads": 80.0, "device": 4.0,
    "under_way": 10.0, "idle": 6.2, "forwards": 20.0, "scored": 205.0, "tokens": 1000.0, "padding": 34.0,
}  # fmt: skip


def test_the_bottleneck_comes_first_and_each_sum_says_of_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    echo_times(StageTimes(sums=STARVED))
    assert capsys.readouterr().out.splitlines() == [
        "",
        "the device was idle 62 % of the time: decoding is the bottleneck (more cores, or more workers on other "
        "machines; more fetch_threads as long as cores are free)",
        "  workers had batches for 10.0 s: 20.5 images/s per worker",
        "  stage threads were busy for 66.0 s of 80.0 s: fetch 6.0 s, decode 50.0 s, prepare 10.0 s",
        "  20 forwards took 4.0 s, some in parallel: 10.2 images each, 3.4 % of the tokens padding",
    ]


def test_where_nothing_was_measured_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    echo_times(StageTimes(sums={}))
    assert capsys.readouterr().out == ""


def test_a_scored_scan_shows_its_times(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        scan_id = worker.scan({f"mem://{number}": png(number) for number in range(20)})
        worker.drain()
    shown = scanfleet("scans", "show", scan_id, data_dir=tmp_path)
    assert "the device was idle" in shown.stdout, shown.stderr
    assert "stage threads were busy for " in shown.stdout
    times = json.loads(scanfleet("scans", "show", scan_id, "--format", "json", data_dir=tmp_path).stdout)["times"]
    assert times["worker_seconds"] > 0
    assert 0 < times["device_idle_share"] <= 1
    assert times["images_per_forward"] == pytest.approx(20 / times["forwards"], abs=0.01)
    assert times["bottleneck"] in ("fetch", "decode", "prepare", "batches", "device")


def test_a_scan_from_before_times_were_kept_shows_none(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path, n_verdicts=3)
    assert "the device was idle" not in scanfleet("scans", "show", scan_id, data_dir=tmp_path).stdout
    shown = scanfleet("scans", "show", scan_id, "--format", "json", data_dir=tmp_path).stdout
    assert json.loads(shown)["times"]["bottleneck"] is None


def test_workers_are_listed_with_what_holds_them_up(tmp_path: Path) -> None:
    about = {"host": "h", "pid": 7, "queue": "score.fake", "device": "cpu"}
    with rig(tmp_path) as ledger, transaction(ledger.engine) as connection:
        for worker in ("h-7-busy", "h-8-new", "h-9-gone"):
            start_worker(connection, worker=worker, **about)
        beat(connection, worker="h-7-busy", n_images=205, seconds=STARVED, progressed=True)
        stop_worker(connection, "h-9-gone")
    listed = scanfleet("worker", "ls", data_dir=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["worker", "h-7-busy", "h-8-new"]
    assert listed[1].split()[-4:] == ["205", "20.5", "62%", "decode"]
    assert listed[2].split()[-4:] == ["0", "-", "-", "-"]
    busy, new = json.loads(scanfleet("worker", "ls", "--format", "json", data_dir=tmp_path).stdout)
    assert (busy["worker"], busy["pid"], busy["times"]["bottleneck"]) == ("h-7-busy", 7, "decode")
    assert new["times"]["device_idle_share"] is None


def test_where_no_worker_lives_the_command_that_starts_one_is_named(tmp_path: Path) -> None:
    ledger_with_scan(tmp_path)
    answer = scanfleet("worker", "ls", data_dir=tmp_path)
    assert (answer.returncode, "`scanfleet worker score`" in answer.stderr) == (0, True)
