"""The notebook of docs/ runs from its first cell to its last."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli_process import environment

ROOT = Path(__file__).parents[3]
TOUR = ROOT / "docs/tour.ipynb"


@pytest.mark.slow
def test_the_tour_runs(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", str(ROOT / "tools/notebook.py"), str(TOUR)],
        cwd=tmp_path,
        env=environment(tmp_path / "data"),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "48 of 48 images scored" in ended.stdout
    assert "('overlay', 'ann', 'counts')" in ended.stdout
    assert ended.stdout.count("True") == 1  # the margin of `score` is that of the scan


def test_the_outputs_that_are_shown_are_those_of_the_cells() -> None:
    cells = [cell for cell in json.loads(TOUR.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert "48 of 48 images scored" in "".join(cells[1]["outputs"][0]["text"])
