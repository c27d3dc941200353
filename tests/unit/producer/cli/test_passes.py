"""Several checks in one command: `--check` more than once, and `--pack`."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.helpers.cli_call import scanfleet
from tests.rigs.worker_rig import png

CHECK = 'name = "{name}"\nprompt = "Is there a {name}?"\nlabels = ["yes", "no"]\nflags = ["yes"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a pack, three checks and four pictures."""
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(png(number))
    for name, more in (("logo", ""), ("knife", ""), ("boxes", "boxes = true\n"), ("small", "max_pixels = 4096\n")):
        (tmp_path / f"{name}.toml").write_text(CHECK.format(name=name) + more, encoding="utf-8")
    (tmp_path / "ads.toml").write_text('checks = ["knife.toml",\n  "boxes.toml", "small.toml"]\n', encoding="utf-8")
    return tmp_path


def test_several_checks_print_a_line_each_and_again_the_same(folder: Path) -> None:
    arguments = ("scan", "pictures", "--check", "logo.toml", "--check", "logo.toml", "--pack", "ads.toml")
    first = scanfleet(*arguments, data_dir=folder, model="fake")
    assert first.returncode == 0, first.stderr
    lines = [line.split("  ") for line in first.stdout.splitlines()]
    assert [check for _, check in lines] == ["logo", "knife", "boxes", "small"]
    again = scanfleet(*arguments, data_dir=folder, model="fake")
    assert again.stdout == first.stdout
    ids = ", ".join(scan_id for scan_id, _ in lines)
    assert f"nothing new: scans {ids} already hold these images and resume (16 pending" in again.stderr
    with sqlite3.connect(folder / "scanfleet.db") as ledger:
        passes = dict(ledger.execute("SELECT id, pass_id FROM scans"))
    assert passes[lines[0][0]] == passes[lines[1][0]] is not None
    assert [passes[scan_id] for scan_id, _ in lines[2:]] == [None, None]


def test_one_check_prints_the_id_alone(folder: Path) -> None:
    (folder / "one.toml").write_text('checks = ["logo.toml"]', encoding="utf-8")
    first = scanfleet("scan", "pictures", "--check", "logo.toml", data_dir=folder, model="fake")
    assert len(first.stdout.split()) == 1
    assert scanfleet("scan", "pictures", "--pack", "one.toml", data_dir=folder, model="fake").stdout == first.stdout


def test_a_dry_run_tells_the_passes_and_who_reads_by_itself(folder: Path) -> None:
    arguments = ("scan", "pictures", "--check", "logo.toml", "--pack", "ads.toml", "--dry-run")
    found = scanfleet(*arguments, data_dir=folder, model="fake")
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[2:] == [
        *(f"already scored  0 by {name}" for name in ("logo", "knife", "boxes", "small")),
        "skipped         0",
        "device hours    unknown: no worker of fake has scored a batch of 64 images yet",
        "passes          3",
        "  logo, knife  (at most 200704 pixels, 8 frames)",
        "  boxes  (by itself: it asks for boxes)",
        "  small  (at most 4096 pixels, 8 frames)",
    ]
    assert not (folder / "scanfleet.db").exists()
    alone = scanfleet("scan", "pictures", "--check", "logo.toml", "--dry-run", data_dir=folder, model="fake")
    assert "passes" not in alone.stdout
    assert "already scored  0\n" in alone.stdout


@pytest.mark.parametrize("command", ["scan", "run"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("checks = 3", "ads.toml:1: checks: must be a list of names and files of checks"),
        ('checks = [\n"logo.toml",\n"none"]', "ads.toml:3: no check 'none'"),
        ('checks = ["gone.toml"]', "ads.toml:1: gone.toml: cannot be read: No such file"),
    ],
)
def test_a_wrong_pack_is_one_line_and_writes_nothing(folder: Path, command: str, text: str, words: str) -> None:
    (folder / "ads.toml").write_text(text, encoding="utf-8")
    found = scanfleet(command, "pictures", "--pack", "ads.toml", data_dir=folder, model="fake")
    assert found.returncode not in (0, 1)
    assert words in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    with sqlite3.connect(folder / "scanfleet.db") as ledger:
        assert ledger.execute("SELECT count(*) FROM scans").fetchone() == (0,)


@pytest.mark.parametrize("command", ["scan", "run"])
def test_without_check_and_pack_the_option_is_missing(folder: Path, command: str) -> None:
    found = scanfleet(command, "pictures", data_dir=folder, model="fake")
    assert found.returncode == 2
    assert "Missing option '--check' (or '--pack')" in found.stderr


@pytest.mark.slow
def test_each_check_has_a_report_of_its_own(folder: Path) -> None:
    arguments = ("run", "pictures", "--check", "logo.toml", "--check", "knife.toml", "--report", "a.html")
    found = scanfleet(*arguments, data_dir=folder, model="fake")
    assert found.returncode == 0, found.stderr
    scans = json.loads(scanfleet("scans", "ls", "--format", "json", data_dir=folder).stdout)
    pages = {f"a-{each['check']}-{each['scan']}.html" for each in scans}
    assert {path.name for path in folder.glob("*.html")} == pages
    assert {line for line in found.stdout.splitlines() if line.startswith("report")} == {f"report: {p}" for p in pages}
    for each in scans:
        page = (folder / f"a-{each['check']}-{each['scan']}.html").read_text()
        assert f"<h1>{each['check']}</h1>" in page


@pytest.mark.slow
def test_run_answers_all_of_them(folder: Path) -> None:
    arguments = ("run", "pictures", "--check", "logo.toml", "--check", "knife.toml", "--strict")
    found = scanfleet(*arguments, data_dir=folder, model="fake")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("4 images: 4 scored") == 2
    shown = scanfleet("results", "show", folder / "pictures" / "0.png", "--format", "table", data_dir=folder)
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[0] == ["check", "state", "label", "decision", "score", "margin", "scan"]
    assert sorted(line[:2] for line in lines[1:]) == [["knife", "verdict"], ["logo", "verdict"]]
    ids = {line.split()[1].rstrip(":") for line in found.stdout.splitlines() if line.startswith("scan ")}
    assert {line[-1] for line in lines[1:]} == ids
    assert [f"check {name}, model fake, done" in found.stdout for name in ("logo", "knife")] == [True, True]
