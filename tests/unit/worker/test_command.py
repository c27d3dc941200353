"""`python -m scanfleet.worker score` as far as it goes without a broker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_fleet_part_of_a_worker_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, scanfleet.worker.__main__, scanfleet.worker.processes.score_worker; "
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    assert run("-c", code, cwd=tmp_path).stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--model", "./no-such-folder"], 10, "scanfleet: model: "),
        (["--precision", "fp7"], 10, "scanfleet: settings: precision"),
        (["--batches-in-flight", "0"], 10, "scanfleet: settings: batches_in_flight"),
        (["--token-budget", "5"], 10, "scanfleet: settings: token_budget: must be auto, or a whole number"),
    ],
)
def test_what_a_person_must_change_is_one_line_and_an_exit_code(
    tmp_path: Path, flags: list[str], code: int, words: str
) -> None:
    ended = run(
        "-m",
        "scanfleet.worker",
        "score",
        "--log-level",
        "error",
        *flags,
        cwd=tmp_path,
        SCANFLEET_DATA_DIR=str(tmp_path),
    )
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.startswith(words)
    assert len(ended.stderr.splitlines()) == 1


def test_a_server_database_without_our_tables_is_not_touched(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    ended = run("-m", "scanfleet.worker", "score", "--model", "fake", cwd=tmp_path, SCANFLEET_DATABASE_URL=url)
    assert ended.returncode == 18
    assert "run `scanfleet db upgrade`" in ended.stderr
