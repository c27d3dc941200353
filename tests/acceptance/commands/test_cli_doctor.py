"""`scanfleet doctor` as a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli_process import environment, scanfleet


def test_it_measures_the_stages_and_forecasts_what_they_do_together(tmp_path: Path) -> None:
    data = tmp_path / "data"
    answer = scanfleet(
        "doctor", "--json", "--seconds", "0", data_dir=data, cwd=tmp_path, model="fake", fetch_threads="2"
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    told = json.loads(answer.stdout)
    assert {one["name"]: one["status"] for one in told["findings"]} == {
        "data folder": "ok",
        "ledger": "ok",
        "broker": "ok",
        "store": "skip",
        "model": "ok",
        "device": "ok",
        "scorer": "ok",
        "token budget": "ok",
    }
    rates = told["images_per_second"]
    assert set(rates) == {"decode", "prepare", "device"}
    assert 0 < told["forecast"]["images_per_second"] < min(rates.values())
    assert 0 <= told["forecast"]["idle_share"] <= 1
    assert told["forecast"]["advice"]
    origin = {one["name"]: one["origin"] for one in told["settings"]}
    assert origin["model"] == "SCANFLEET_MODEL"
    assert origin["device"] == "default"
    assert not data.exists()


def test_what_is_broken_is_reported_beside_what_is_not(tmp_path: Path) -> None:
    url = ("--database-url", "postgresql://u:geheim12@127.0.0.1:1/x")
    how = {"model": "fake", "fetch_threads": "2", "token_budget": "300"}
    answer = scanfleet(*url, "doctor", "--seconds", "0", "--source", "gone", data_dir=tmp_path, **how)
    assert answer.returncode == 75
    assert answer.stderr == ""
    assert "FAIL  ledger: the database cannot be used right now" in answer.stdout
    assert "FAIL  store: no such folder or file: gone" in answer.stdout
    assert "WARN  broker: " in answer.stdout  # a folder of this machine, beside a ledger of many
    assert "ok    token budget: 300 visual tokens in a forward (as set)" in answer.stdout
    assert "images/s; the slowest stage is " in answer.stdout
    assert "geheim12" not in answer.stdout


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    answer = scanfleet("doctor", "--model", "./other", "--format", "json", data_dir=tmp_path)
    assert answer.returncode == 10
    told = json.loads(answer.stdout)
    assert "is a llama model" in told["findings"][-1]["text"]
    assert told["findings"][-1]["status"] == "fail"
    assert told["forecast"] is None


def test_a_wrong_question_is_one_line(tmp_path: Path) -> None:
    answer = scanfleet("doctor", "--check", "nope", data_dir=tmp_path)
    assert (answer.returncode, answer.stdout) == (17, "")
    assert "no built-in check 'nope'" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_without_torch_the_rest_is_checked(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from scanfleet.producer.cli.main import main;"
        "sys.argv = ['scanfleet', 'doctor']; code = main();"
        "print([name for name in ('transformers', 'numpy', 'worker') if name in sys.modules]); sys.exit(code)"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path),
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "ok    broker: " in answer.stdout
    assert "WARN  scoring: " in answer.stdout
    assert "pip install -c constraints.txt '.[worker]'" in answer.stdout
    assert answer.stdout.splitlines()[-1] == "[]"
