"""A check of kind multi, from its file to sets and their figures."""

import json
from pathlib import Path

from PIL import Image

from tests.helpers.cli_call import scanfleet

XRAY = 'kind = "multi"\nname = "xray"\nprompt = "Is there a {class}?"\nclasses = ["knife", "gun", "saw"]\n'
SETS = ("results", "sets", "--check", "xray.toml")


def test_a_bag_is_scanned_once_and_answered_as_a_set(tmp_path: Path) -> None:
    (tmp_path / "xray.toml").write_text(XRAY)
    truths = ["none", "knife", "knife,gun", "gun", "saw", "none"]
    for number in range(len(truths)):
        Image.effect_noise((64, 48), 20 + 20 * number).convert("RGB").save(tmp_path / f"{number}.png")
    rows = [f'{number}.png,"{truth}"' for number, truth in enumerate(truths)]
    (tmp_path / "bags.csv").write_text("\n".join(["uri,classes", *rows]))
    done = scanfleet("run", "bags.csv", "--check", "xray.toml", data_dir=tmp_path, model="fake")
    assert done.returncode == 0, done.stderr

    listed = scanfleet(*SETS, "--format", "jsonl", data_dir=tmp_path)
    found = {Path(row["uri"]).stem: row for row in map(json.loads, listed.stdout.splitlines())}
    assert sorted(found) == ["0", "1", "2", "3", "4", "5"]
    for label in ("knife", "gun", "saw"):
        one = scanfleet("results", "ls", "--check", f"xray--{label}", "--format", "jsonl", data_dir=tmp_path)
        for row in map(json.loads, one.stdout.splitlines()):
            joint = found[Path(row["uri"]).stem]
            assert joint["margins"][label] == row["margin"]
            assert (label in joint["labels"], label in joint["review"]) == (
                row["decision"] == "flag",
                row["decision"] == "review",
            )

    figures = scanfleet(*SETS, "--truth", "classes", "--format", "json", data_dir=tmp_path)
    measured = json.loads(figures.stdout)
    assert measured["images"] == 6
    assert {label: each["shown"] for label, each in measured["classes"].items()} == {"knife": 2, "gun": 2, "saw": 1}
    assert scanfleet(*SETS, "--labels", data_dir=tmp_path).returncode == 22  # there are none yet
    other = scanfleet("results", "sets", "--check", "overlay", data_dir=tmp_path)
    assert (other.returncode, "overlay is not of kind multi" in other.stderr) == (11, True)


def test_an_added_check_is_used_by_its_name_and_its_classes_by_theirs(tmp_path: Path) -> None:
    (tmp_path / "xray.toml").write_text(XRAY)
    added = scanfleet("checks", "add", "xray.toml", data_dir=tmp_path)
    assert [line.split()[2] for line in added.stderr.splitlines()] == ["xray--knife", "xray--gun", "xray--saw"]
    shown = scanfleet("checks", "show", "xray", data_dir=tmp_path)
    assert shown.returncode == 11
    assert "choose one of its checks: xray--knife, xray--gun, xray--saw" in shown.stderr
    assert 'name = "xray--gun"' in scanfleet("checks", "show", "xray--gun", data_dir=tmp_path).stdout
    planned = scanfleet("scan", ".", "--check", "xray", "--dry-run", data_dir=tmp_path)
    assert "xray--knife, xray--gun, xray--saw" in planned.stdout
