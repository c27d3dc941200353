"""A model that no hub gives: whoever scans is told at once, and a name that the hub refuses ends the command."""

import signal
from pathlib import Path

import pytest
from PIL import Image

from scanfleet.errors import UnknownModel
from tests.helpers.cli_process import scanfleet, start
from tests.helpers.fake_hub import fake_hub, hub_environment
from tests.helpers.patience import patient

MODEL = "owner/typo"
REFUSED = "model: the hub has no owner/typo at revision main; check the name"
AWAY = "model: cannot fetch owner/typo from the hub now: "


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (40, 30), (9, 90, 30)).save(folder / "1.png")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def lead_to(address: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in hub_environment(address, home).items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_a_name_that_the_hub_does_not_know_ends_the_run_and_stays_visible(
    data: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub(404, code="RepoNotFound") as address:
        lead_to(address, tmp_path / "hf", monkeypatch)
        run = scanfleet("run", pictures, "--check", "overlay", "--model", MODEL, data_dir=data)
        worker = scanfleet("worker", "score", "--model", MODEL, data_dir=data)
    assert run.returncode == worker.returncode == UnknownModel.exit_code == 26
    assert run.stderr.splitlines()[-1].startswith(f"scanfleet: {REFUSED} (log: ")
    assert worker.stderr.splitlines()[-1] == f"scanfleet: {REFUSED}"
    assert "Traceback" not in run.stderr + worker.stderr

    scan = scanfleet("scan", pictures, "--check", "overlay", "--model", MODEL, data_dir=data)
    assert f"no live worker for model {MODEL}: the last one ended: {REFUSED}" in scan.stderr
    shown = scanfleet("scans", "show", scan.stdout.strip(), data_dir=data)
    assert f"the last one ended: {REFUSED}" in shown.stderr
    assert f"waiting for: a worker; the last one ended: {REFUSED}" in " ".join(shown.stdout.split())
    assert f"has ended, and none took its place: {REFUSED}" in scanfleet("worker", "ls", data_dir=data).stderr
    waiting = start("scan", pictures, "--check", "overlay", "--model", MODEL, "--wait", data_dir=data)
    assert waiting.stderr is not None
    told = next(line for line in waiting.stderr if line.startswith("scoring: "))
    waiting.send_signal(signal.SIGINT)
    waiting.communicate()
    assert f"waiting for: a worker; the last one ended: {REFUSED}" in told


@pytest.mark.slow
def test_a_hub_that_is_away_is_waited_for_and_shown(
    data: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub(503) as address:
        lead_to(address, tmp_path / "hf", monkeypatch)
        run = start("run", pictures, "--check", "overlay", "--model", MODEL, data_dir=data)
        assert run.stderr is not None
        told = next(line for line in run.stderr if line.startswith("scanfleet: the worker waits: "))
        assert AWAY in told
        workers = scanfleet("worker", "ls", data_dir=data)
        assert f"cannot start yet: {AWAY}" in workers.stderr
        scan = scanfleet("scan", pictures, "--check", "overlay", "--model", MODEL, data_dir=data)
        assert f"no worker for model {MODEL} can start yet: {AWAY}" in scan.stderr
        shown = scanfleet("scans", "show", scan.stdout.strip(), data_dir=data)
        assert f"no worker for model {MODEL} can start yet: {AWAY}" in shown.stderr
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=patient(60.0))
    assert "has ended" not in scanfleet("worker", "ls", data_dir=data).stderr  # it was asked to stop
