"""Beside files with common names, ours are found: nothing of scanfleet is called models, worker or producer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from tests.helpers.cli_process import environment, scanfleet

TAKEN = ("models", "worker", "producer", "migrations", "bench", "tools")
SCRIPT = """
import json, sys
import migrations, models, producer, worker
import scanfleet as sf
from scanfleet.producer.scans import session

scan = sf.scan("pictures", check="overlay")
done = scan.wait(workers=1)
print(json.dumps({
    "theirs": [models.whose, worker.whose, producer.whose, migrations.whose],
    "scored": done.n_verdicts,
    "named": sorted(each.uri[-5:] for each in scan.results()),
    "loaded": [name for name in ("torch", "numpy", "transformers") if name in sys.modules],
}))
"""


def place(folder: Path) -> Path:
    for name in TAKEN[:2]:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("whose = 'theirs'\n")
    for name in TAKEN[2:]:
        (folder / f"{name}.py").write_text("whose = 'theirs'\n")
    (folder / "pictures").mkdir()
    for number in range(3):
        PillowImage.new("RGB", (64, 64), (number * 40, 0, 0)).save(folder / "pictures" / f"{number}.png")
    return folder


@pytest.mark.slow
def test_a_program_beside_files_of_our_folders_names_scans(tmp_path: Path) -> None:
    place(tmp_path)
    (tmp_path / "theirs.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "theirs.py"],
        cwd=tmp_path,
        env=environment(tmp_path / "data", model="fake"),
        capture_output=True,
        encoding="utf-8",
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    named = ["0.png", "1.png", "2.png"]
    assert said == {"theirs": ["theirs"] * 4, "scored": 3, "named": named, "loaded": []}


@pytest.mark.slow
def test_the_command_line_works_there_too(tmp_path: Path) -> None:
    place(tmp_path)
    ended = scanfleet("run", "pictures", "--check", "overlay", "--model", "fake", data_dir=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "3" in ended.stdout
