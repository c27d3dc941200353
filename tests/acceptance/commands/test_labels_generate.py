"""`scanfleet labels generate`: pictures with labels that only trainings use."""

import json
from pathlib import Path

import pytest

from scanfleet.models.pocket.generate import Order, write_archive
from tests.helpers.cli_call import scanfleet

OWN_CHECK = 'name = "mine"\nprompt = "Is there text?"\nlabels = ["text", "nothing"]\nflags = ["text"]\n'


@pytest.mark.slow
def test_generated_pictures_are_labelled_for_training_alone(tmp_path: Path) -> None:
    """Those that golden images resemble are left out; they start no training; a second run with them adds nothing."""
    golden = write_archive(Order(check="overlay", n=4, seed=3, out=tmp_path / "real"))
    imported = ("labels", "import", golden, "--check", "overlay", "--label-column", "truth", "--split", "golden")
    assert scanfleet(*imported, data_dir=tmp_path).returncode == 0
    command = ("labels", "generate", "--check", "overlay", "--n", "16", "--seed", "3", "--out")
    done = scanfleet(*command, "generated", data_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 pictures left out: they look like images of another split" in done.stderr

    listed = scanfleet("labels", "ls", "--check", "overlay", "--format", "jsonl", data_dir=tmp_path)
    lines = [json.loads(line) for line in listed.stdout.splitlines()]
    made = [line for line in lines if line["origin"] == "synthetic"]
    assert 8 < len(made) <= 12
    assert {line["split"] for line in made} == {"train"}
    assert {line["split"] for line in lines if line not in made} == {"golden"}
    again = scanfleet(*command, "generated", data_dir=tmp_path)
    assert (again.returncode, "name a new folder with --out" in again.stderr) == (22, True)


def test_labels_that_the_check_does_not_have_leave_no_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(OWN_CHECK)
    command = ("labels", "generate", "--check", "mine.toml", "--scenes", "overlay", "--n", "4", "--out", "generated")
    refused = scanfleet(*command, data_dir=tmp_path, model="fake")
    assert refused.returncode == 22, refused.stderr
    assert not (tmp_path / "generated").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".generated")] == []


def test_only_checks_with_scenes_can_be_generated_for(tmp_path: Path) -> None:
    refused = scanfleet("labels", "generate", "--check", "flowers", "--n", "4", "--out", "x", data_dir=tmp_path)
    assert (refused.returncode, "--scenes takes overlay, baggage, razor" in refused.stderr) == (22, True)
