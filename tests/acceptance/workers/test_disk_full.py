"""A full disk: nothing is lost or half written, one line reports it, and work continues when there is space again."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scanfleet.config.settings import load_settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.schema import ledger
from scanfleet.db.tables import Image, Scan
from tests.helpers.cli_process import COMMAND, environment, scanfleet, start
from tests.rigs.worker_fleet import Fleet, fleet
from tests.rigs.worker_rig import add_scan, png
from tests.services.tiny_disk import TinyDisk, tiny_disk

WRONG_USAGE = 2
BAD_SETTING = 10
TRY_AGAIN = 75


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[TinyDisk]:
    with tiny_disk(tmp_path / "data", megabytes=4) as made:
        yield made


@pytest.fixture
def here(disk: TinyDisk, tmp_path: Path) -> Iterator[Fleet]:
    """Ledger and broker on the tiny disk, archive and logs elsewhere."""
    with fleet(tmp_path) as made:
        yield made


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("scanfleet: ")]
    assert "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.slow
def test_a_worker_waits_for_space_and_continues(here: Fleet, disk: TinyDisk) -> None:
    scan = here.scan(64)
    worker = here.start(seconds_per_image=0.02)
    here.until_scored(scan, 16)
    disk.fill()
    here.until(lambda: "disk is full" in worker.log)
    scored = here.progress(scan).n_verdicts
    here.until(lambda: worker.log.count("disk is full") > 3)  # it tries again and again
    assert here.progress(scan).n_verdicts == scored
    disk.free()
    here.until_done(scan)
    here.assert_complete(scan, 64)
    assert worker.process.poll() is None
    assert "Traceback" not in worker.log


@pytest.mark.slow
def test_a_scan_waits_for_space_and_continues(here: Fleet, disk: TinyDisk) -> None:
    here.archive.mkdir()
    for number in range(40):
        (here.archive / f"{number}.png").write_bytes(png(number))
    disk.fill()
    arguments = ("scan", here.archive, "--check", "overlay", "--model", "fake")
    with start(*arguments, data_dir=disk.folder) as scanning:
        assert scanning.stderr is not None
        for line in scanning.stderr:
            if "disk is full" in line:
                break
        disk.free()
        scanning.communicate(timeout=120)
    assert scanning.returncode == 0
    assert (here.count(Scan), here.count(Image)) == (1, 40)


@pytest.mark.slow
def test_a_ledger_that_cannot_be_made_for_lack_of_space_is_reported_in_one_line(disk: TinyDisk, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    arguments = ("scan", tmp_path / "a.png", "--check", "overlay", "--model", "fake")
    disk.fill()
    full = scanfleet(*arguments, data_dir=disk.folder, cwd=tmp_path)
    assert full.returncode in (TRY_AGAIN, BAD_SETTING)
    assert re.search("disk is full|No space left|unable to open database file", one_line(full))
    disk.free()
    assert scanfleet(*arguments, data_dir=disk.folder, cwd=tmp_path).returncode == 0  # nothing half made is in the way


@pytest.fixture
def scanned(tmp_path: Path) -> str:
    """A scan of two hundred images without a verdict, in tmp_path / "ledger"."""
    settings = load_settings(data_dir=tmp_path / "ledger")
    with ledger(settings) as engine:
        return add_scan(engine, [NewImage(uri=f"mem://{number:0200}") for number in range(2000)])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet"])
def test_an_export_that_does_not_fit_leaves_nothing(tmp_path: Path, scanned: str, form: str) -> None:
    with tiny_disk(tmp_path / "small", megabytes=1) as disk:
        disk.fill()
        target = disk.folder / "out"
        done = scanfleet("results", "export", "--format", form, "-o", target, data_dir=tmp_path / "ledger")
        assert done.returncode == WRONG_USAGE
        assert one_line(done) == f"scanfleet: cannot write {target}: No space left on device"
        assert [path.name for path in disk.folder.iterdir()] == ["ballast"]


@pytest.mark.slow
def test_a_report_that_does_not_fit_leaves_nothing(tmp_path: Path, scanned: str) -> None:
    with tiny_disk(tmp_path / "small", megabytes=1) as disk:
        disk.fill()
        target = disk.folder / "sheet.html"
        done = scanfleet("scans", "report", scanned, "-o", target, data_dir=tmp_path / "ledger")
        assert done.returncode == WRONG_USAGE, done.stderr
        assert one_line(done) == f"scanfleet: cannot write {target}: No space left on device"
        assert [path.name for path in disk.folder.iterdir()] == ["ballast"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [("results", "export"), ("results", "export", "--format", "parquet"), ("results", "ls"), ("scans", "ls")],
)
def test_a_full_output_is_reported_in_one_line(tmp_path: Path, scanned: str, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=environment(tmp_path / "ledger"),
            timeout=120,
            check=False,
        )
    assert done.returncode == WRONG_USAGE
    assert one_line(done) == "scanfleet: cannot write the output: No space left on device"
    assert "Exception ignored" not in done.stderr
