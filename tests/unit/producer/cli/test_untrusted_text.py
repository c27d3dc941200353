"""File names and manifest columns may hold anything: what a terminal and a spreadsheet get of them."""

import csv
import io
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.tables import Image
from tests.helpers.cli_call import on_terminal, scanfleet
from tests.rigs.ledger_rig import ledger_with_scan

BAD = "=cmd://c!A1\x1b]0;title\x07\x9b31m\u202egnp.exe"
STEERS = ("\x1b", "\x07", "\x9b", "\u202e")


@pytest.fixture
def scan_id(tmp_path: Path) -> str:
    found = ledger_with_scan(tmp_path, failures=(("fetch", "gone"),))
    engine = connect(load_settings(data_dir=tmp_path))
    with transaction(engine) as connection:
        connection.execute(sa.update(Image).values(uri=BAD, meta={"note": BAD}))
    engine.dispose()
    return found


@pytest.mark.parametrize(
    "command",
    [
        *(("results", "export", "--format", form) for form in ("csv", "json", "jsonl")),
        *(("results", "ls", "--format", form) for form in ("table", "csv", "json", "jsonl")),
        ("results", "show", BAD),
    ],
)
def test_a_terminal_gets_no_control_characters(tmp_path: Path, scan_id: str, command: tuple[str, ...]) -> None:
    text = "\n".join(on_terminal(*command, data_dir=tmp_path, columns=2000))
    assert "gnp.exe" in text
    assert [mark for mark in STEERS if mark in text] == []


def test_a_pipe_gets_the_name_as_it_is(tmp_path: Path, scan_id: str) -> None:
    text = scanfleet("results", "export", "--format", "csv", data_dir=tmp_path).stdout
    assert {row["uri"] for row in csv.DictReader(io.StringIO(text, newline=""))} == {BAD}


def test_a_spreadsheet_gets_no_formula(tmp_path: Path, scan_id: str) -> None:
    done = scanfleet("results", "export", "--format", "csv", "--spreadsheet", data_dir=tmp_path)
    assert done.stdout.startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(done.stdout.removeprefix("\ufeff"), newline="")))
    assert {row["uri"] for row in rows} == {row["meta_note"] for row in rows} == {f"'{BAD}"}
    assert {row["state"] for row in rows} >= {"failed"}


def test_a_spreadsheet_is_a_csv(tmp_path: Path, scan_id: str) -> None:
    done = scanfleet("results", "export", "--spreadsheet", data_dir=tmp_path)
    assert (done.returncode, "--format csv" in done.stderr) == (2, True)
