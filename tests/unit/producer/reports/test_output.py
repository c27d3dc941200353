"""Where an export goes: a file appears whole or not at all; links, devices and pipes stay what they are."""

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scanfleet.db.results.results import Result
from scanfleet.errors import RequestError
from scanfleet.producer.cli.scans.results_export import FORMATS
from scanfleet.producer.reports.export import write_results
from scanfleet.producer.reports.output import require_place, target
from tests.helpers.cli_call import scanfleet
from tests.helpers.cli_process import COMMAND, environment
from tests.rigs.ledger_rig import ledger_with_scan
from tests.unit.producer.reports.test_export import RESULTS

WRONG_USAGE = 2


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with target(path, form="jsonl") as file:
        write_results(RESULTS, file, form="jsonl")
        assert not path.exists()
    assert len(path.read_bytes().splitlines()) == 3
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def broken() -> Iterator[Result]:
        yield RESULTS[0]
        raise RuntimeError("in the midst")

    with pytest.raises(RuntimeError, match="midst"), target(path, form="jsonl") as file:
        write_results(broken(), file, form="jsonl")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("place", "words"), [("no/such/x.csv", "there is no folder"), (".", "it is a folder")])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str, words: str) -> None:
    with pytest.raises(RequestError, match=f"cannot write .*{words}"), target(tmp_path / place, form="csv"):
        pass


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_the_file_it_points_to_appears_whole(tmp_path: Path, there: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere/out.jsonl", tmp_path / "link"
    if there:
        file.write_text("old")
    link.symlink_to("elsewhere/out.jsonl")
    require_place(link)
    with target(link, form="jsonl") as out:
        write_results(RESULTS, out, form="jsonl")
        assert (file.read_text() if file.exists() else None) == ("old" if there else None)
    assert link.is_symlink()
    assert len(file.read_bytes().splitlines()) == 3
    assert list(file.parent.iterdir()) == [file]


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("no/such")
    for name, words in (("loop", "symbolic links"), ("gone", "there is no folder .*/no$")):
        with pytest.raises(RequestError, match=f"cannot write .*{name}: .*{words}"):
            require_place(tmp_path / name)


@pytest.mark.parametrize("form", FORMATS)
def test_a_pipe_is_written_and_stays(tmp_path: Path, form: str) -> None:
    ledger_with_scan(tmp_path, n_verdicts=3)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    require_place(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    export = ("results", "export", "--format", form, "-o")
    assert scanfleet(*export, pipe, data_dir=tmp_path).returncode == 0
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(timeout=60)
    assert scanfleet(*export, tmp_path / "file", data_dir=tmp_path).returncode == 0
    if form != "xlsx":  # holds the time of its making
        assert read == [(tmp_path / "file").read_bytes()]
    if form == "parquet":
        assert pq.read_table(tmp_path / "file").num_rows == 3


@pytest.mark.parametrize(
    "arguments", [("results", "export"), ("results", "export", "--format", "csv"), ("scans", "report", "SCAN")]
)
def test_a_full_device_is_reported_in_one_line_and_stays_a_device(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    scan = ledger_with_scan(tmp_path, n_verdicts=3)
    named = [scan if word == "SCAN" else word for word in arguments]
    # A pipe of our own stands for it first: should the code replace what it finds, the machine keeps its device.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=pipe.read_bytes, daemon=True)
    reader.start()
    assert scanfleet(*named, "-o", pipe, data_dir=tmp_path).returncode == 0
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    done = scanfleet(*named, "-o", "/dev/full", data_dir=tmp_path)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert done.returncode == WRONG_USAGE
    assert done.stderr == "scanfleet: cannot write /dev/full: No space left on device\n"


def test_what_the_shell_has_redirected_is_added_to_and_not_replaced(tmp_path: Path) -> None:
    ledger_with_scan(tmp_path, n_verdicts=3)
    link = tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")  # as /dev/stdout is; of our own, should the code replace what it finds
    with open(tmp_path / "all.jsonl", "w+b") as file:
        file.write(b"before\n")
        file.flush()
        command = [*COMMAND, "results", "export", "-o", str(link)]
        subprocess.run(command, stdout=file, env=environment(tmp_path), timeout=120, check=True)
        file.seek(0)
        assert len(file.read().splitlines()) == 4
    assert len((tmp_path / "all.jsonl").read_bytes().splitlines()) == 4


def test_a_full_disk_is_named_and_leaves_no_rest(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No space left"), target(tmp_path / "x.csv", form="csv"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []
