"""`scanfleet experiment` as a process: a report, and what the ledger keeps of it."""

import json
from pathlib import Path

import pytest

from tests.helpers.cli_call import scanfleet

SPEC = """
name = "small"
check = "overlay"
[data]
generated = "overlay"
n = 60
side = 64
[[arm]]
name = "zero-shot"
kind = "zero-shot"
[[arm]]
name = "absent"
kind = "baseline"
sizes = [20]
options = { baseline = "no-such-baseline" }
"""


@pytest.mark.slow
def test_an_experiment_is_reported_and_not_run_twice(tmp_path: Path) -> None:
    spec = tmp_path / "small.toml"
    spec.write_text(SPEC)
    found = scanfleet("experiment", spec, "--out", tmp_path / "report", "--json", data_dir=tmp_path)
    assert found.returncode == 0, found.stderr
    record = json.loads(found.stdout)
    assert [(row["arm"], row["labels"]) for row in record["rows"]] == [("zero-shot", 0)]
    assert {one["arm"] for one in record["left_out"]} == {"absent"}
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == record
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<svg" in page
    assert "absent, seed 1" in page

    again = scanfleet("experiment", spec, "--json", data_dir=tmp_path)
    # Seconds are measured anew wherever a cell runs again.
    assert json.loads(again.stdout)["rows"] == record["rows"]


def test_a_wrong_key_is_one_line(tmp_path: Path) -> None:
    spec = tmp_path / "small.toml"
    spec.write_text("sides = 3\n" + SPEC)
    found = scanfleet("experiment", spec, data_dir=tmp_path)
    assert found.returncode == 29
    assert len(found.stderr.splitlines()) == 1
    assert "sides: is not known" in found.stderr
