"""Tables: as wide as the window on a terminal, complete in a pipe."""

import csv
import io
import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.scans.checks import get_check
from scanfleet.db.tables import Image, Scan
from scanfleet.db.training import trainings
from scanfleet.producer.cli.tables import fit, floor, shortened
from tests.helpers.cli_call import on_terminal, scanfleet
from tests.rigs.ledger_rig import ledger_with_scan

MODEL = "Qwen/Qwen3-VL-235B-A22B-Instruct"
SOURCE = "s3://advertising-archive/2026/campaigns/autumn-sale/manifest.jsonl"
URI = "s3://advertising-archive/2026/campaigns/autumn-sale/creatives/leaderboard-728x90-with-disclaimer-00042.png"
REASON = "100 new labels, and an alarm: the share of flagged images doubled in the scans of the last seven days"
SHOWN = ("checks ls", "scans ls", "scans errors SCAN", "scans show SCAN", "train ls", "train show 1", "results ls")


@pytest.fixture
def scan_id(tmp_path: Path) -> str:
    """A ledger whose names are as long as those of real archives."""
    found = ledger_with_scan(tmp_path, failures=(("fetch", "gone"),), worker_queue=f"score.{MODEL}")
    engine = connect(load_settings(data_dir=tmp_path))
    with transaction(engine) as connection:
        check_id = connection.execute(sa.update(Scan).values(model=MODEL, sources=[SOURCE]).returning(Scan.check_id))
        check = get_check(connection, row := check_id.scalar_one())
        connection.execute(sa.update(Image).values(uri=URI))
        trainings.request(
            connection,
            check_id=row,
            check_name=check.name,
            base_model=MODEL,
            recipe="lora",
            reason=REASON,
            newest_label=7,
        )
    engine.dispose()
    return found


@pytest.mark.parametrize("command", [*SHOWN, "worker ls", "labels ls", "adapters ls", "drift"])
def test_nothing_is_wider_than_the_window(tmp_path: Path, scan_id: str, command: str) -> None:
    lines = on_terminal(*command.replace("SCAN", scan_id).split(), data_dir=tmp_path)
    assert [line for line in lines if len(line) > 80] == []
    assert lines


def test_what_is_below_its_row_is_whole_as_long_as_it_fits(tmp_path: Path, scan_id: str) -> None:
    scans, trained = (
        " ".join(" ".join(on_terminal(command, "ls", data_dir=tmp_path)).split()) for command in ("scans", "train")
    )
    assert f"model: {MODEL}" in scans
    assert f"sources: {SOURCE}" in scans
    assert f"reason: {REASON}" in trained
    listed = on_terminal("results", "ls", data_dir=tmp_path)
    assert {line.strip() for line in listed if "uri:" in line} == {
        f"uri: {URI[:23]}…{URI[-47:]}"  # the end tells one image from another
    }


def test_a_wide_window_and_a_pipe_show_the_same_table(tmp_path: Path, scan_id: str) -> None:
    for command in ("scans", "train", "results", "checks"):
        piped = scanfleet(command, "ls", data_dir=tmp_path).stdout.splitlines()
        assert on_terminal(command, "ls", data_dir=tmp_path, columns=400) == piped
        assert len(max(piped, key=len)) > 80, command
        assert "…" not in "".join(piped)


def test_checks_are_listed_for_programs(tmp_path: Path) -> None:
    listed = {form: scanfleet("checks", "ls", "--format", form, data_dir=tmp_path).stdout for form in ("json", "jsonl")}
    records = json.loads(listed["json"])
    assert [json.loads(line) for line in listed["jsonl"].splitlines()] == records
    flowers = next(record for record in records if record["check"] == "flowers")
    assert len(flowers["labels"]) == 102
    rows = list(csv.DictReader(io.StringIO(scanfleet("checks", "ls", "--format", "csv", data_dir=tmp_path).stdout)))
    assert [row["check"] for row in rows] == [record["check"] for record in records]
    assert json.loads(next(row["labels"] for row in rows if row["check"] == "flowers")) == flowers["labels"]


def test_the_widest_columns_give_way_and_numbers_never() -> None:
    assert fit([8, 30, 12], [8, 8, 12], 40) == [8, 16, 12]
    assert fit([8, 30, 12], [8, 8, 12], None) == [8, 30, 12]
    assert fit([20, 20], [20, 20], 10) == [20, 20]
    assert floor("images", ["7", "1234567"], number=True) == 7
    assert shortened("s3://ads/2026/banner.png", 16) == "s3://…banner.png"
    assert shortened("asked for by ann", 10) == "asked for…"
