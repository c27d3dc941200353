"""An archive of odd files through the real command and the shipped model: each a verdict or a named failure."""

import json
from pathlib import Path

import pytest

from scanfleet.errors import ScanIncomplete
from tests.helpers.cli_call import scanfleet
from tests.helpers.odd_files import VERDICT, write_odd_files
from tests.services import Bucket


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def outcomes(data: Path) -> dict[str, str]:
    """File name -> what the export says became of it."""
    done = scanfleet("results", "export", "--format", "jsonl", data_dir=data)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({line["uri"] for line in lines}) == len(lines)
    return {
        line["uri"].rsplit("/", 1)[1]: line["state"]
        if line["failure"] is None
        else f"{line['failure']['stage']} {line['failure']['reason']}"
        for line in lines
    }


@pytest.mark.slow
def test_a_folder_of_odd_files(tmp_path: Path, data: Path) -> None:
    expected = write_odd_files(tmp_path / "archive mit ü")
    run = scanfleet("run", tmp_path / "archive mit ü", "--check", "overlay", "--strict", data_dir=data)
    assert run.returncode == ScanIncomplete.exit_code, run.stderr
    assert "Traceback" not in run.stderr
    assert outcomes(data) == expected


@pytest.mark.slow
def test_a_bucket_of_odd_files(tmp_path: Path, data: Path, s3_bucket: Bucket) -> None:
    expected = write_odd_files(tmp_path / "odd")
    for name in expected:
        s3_bucket.put(f"2026/{name}", (tmp_path / "odd" / name).read_bytes())
    source = s3_bucket.uri("2026/")
    run = scanfleet("run", source, "--check", "overlay", data_dir=data, s3_endpoint_url=s3_bucket.endpoint_url)
    assert run.returncode == 0, run.stderr
    n_failed = sum(outcome != VERDICT for outcome in expected.values())
    assert f"could not be scored: {n_failed} images" in run.stderr
    assert outcomes(data) == expected
