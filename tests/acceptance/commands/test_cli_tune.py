"""`scanfleet tune` as a process: a report from labels on files, and what Ctrl-C leaves."""

import csv
import json
import random
import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.cli_call import scanfleet
from tests.helpers.cli_process import start

N = 48


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Labels that the fake model, which hashes pixels, cannot know."""
    file = tmp_path / "truth.csv"
    with file.open("w", newline="") as written:
        rows = csv.writer(written)
        rows.writerow(["uri", "label", "group"])
        for at in range(N):
            blots = Image.frombytes("RGB", (6, 4), random.Random(at).randbytes(72))
            blots.resize((300, 200)).save(tmp_path / f"{at}.png")
            rows.writerow([f"{at}.png", ("overlay", "none")[at % 2], f"g{at}"])
    return file


@pytest.mark.slow
def test_a_report_from_a_file_of_labels(truth: Path, tmp_path: Path) -> None:
    arguments = (
        "--check",
        "overlay",
        "--model",
        "fake",
        "--labels",
        truth,
        "--trials",
        "5",
        "--out",
        tmp_path / "tuned",
    )
    found = scanfleet("tune", *arguments, "--json", "--apply", data_dir=tmp_path)
    assert found.returncode == 0, found.stderr
    record = json.loads(found.stdout)
    assert (record["trials"], record["chosen"]) == (5, None)
    assert record["images"]["search"]["n"] + record["images"]["held_out"]["n"] == N
    assert "nothing was stored" in found.stderr
    assert {path.name for path in (tmp_path / "tuned").iterdir()} == {"front.png", "report.html", "report.json"}
    assert json.loads((tmp_path / "tuned" / "report.json").read_text()) == record


@pytest.mark.slow
def test_ctrl_c_ends_the_search_and_reports_what_is_known(truth: Path, tmp_path: Path) -> None:
    arguments = ("--check", "overlay", "--model", "fake", "--labels", str(truth), "--trials", "5000", "--apply")
    with start("tune", *arguments, "--out", tmp_path / "tuned", data_dir=tmp_path) as process:
        assert process.stderr is not None
        said = ""
        while "searching" not in said:
            said = process.stderr.readline()
            assert said, "it ended"
        process.send_signal(signal.SIGINT)
        told, complained = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, complained
    assert "the search ends" in complained
    assert "larger budget" in told
    assert json.loads((tmp_path / "tuned" / "report.json").read_text())["stopped"]
    assert "stored" not in complained
