"""Forecast, limits and money on the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import transaction
from scanfleet.db.scans.workers import beat, start_worker
from scanfleet.db.schema import ledger
from scanfleet.messages import score_queue
from tests.helpers.cli_call import scanfleet
from tests.rigs.ledger_rig import ledger_with_scan


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def test_a_dry_run_tells_hours_and_money_and_whose_rate_that_is(tmp_path: Path, photos: Path) -> None:
    words = ("scan", photos, "--check", "overlay", "--model", "fake", "--dry-run")
    with ledger(load_settings(data_dir=tmp_path)):
        pass
    unknown = scanfleet(*words, data_dir=tmp_path)
    assert "device hours    unknown: no worker of fake has scored a batch of 64 images yet" in unknown.stdout
    assert unknown.stderr == ""
    with ledger(load_settings(data_dir=tmp_path)) as engine, transaction(engine) as connection:
        about = {"host": "h", "pid": 1, "queue": score_queue("fake"), "device": "cpu", "model": "fake"}
        start_worker(connection, worker="w", **about)
        seconds = {"under_way": 3600.0, "scored": 100}
        beat(connection, worker="w", n_images=100, seconds=seconds, progressed=True)
    known = scanfleet(*words, data_dir=tmp_path, price_per_hour="50")
    assert "device hours    0.06" in known.stdout
    assert "money           3.00" in known.stdout
    assert "measured by 1 worker on cpu" in known.stderr


def test_limits_are_kept_with_the_scan_and_shown(tmp_path: Path, photos: Path) -> None:
    words = ("scan", photos, "--check", "overlay", "--model", "fake", "--max-images", "4", "--max-bytes", "1.5k")
    done = scanfleet(*words, data_dir=tmp_path)
    assert done.returncode == 0
    shown = json.loads(scanfleet("scans", "show", done.stdout.strip(), "--format", "json", data_dir=tmp_path).stdout)
    assert shown["limits"] == {"max_images": 4, "max_bytes": 1500}


def test_a_cost_needs_a_price_and_bytes_a_number(tmp_path: Path, photos: Path) -> None:
    words = ("scan", photos, "--check", "overlay", "--model", "fake")
    refused = scanfleet(*words, "--max-cost", "5", data_dir=tmp_path)
    assert (refused.returncode, "price_per_hour" in refused.stderr) == (10, True)
    for text in ("20X", "-1G", "much"):
        refused = scanfleet(*words, "--max-bytes", text, data_dir=tmp_path)
        assert (refused.returncode, "500M" in refused.stderr) == (2, True)


def test_what_a_scan_cost_so_far(tmp_path: Path) -> None:
    scan_id = ledger_with_scan(tmp_path)
    shown = scanfleet("scans", "show", scan_id, data_dir=tmp_path, price_per_hour="3")
    assert "cost so far 0.00" in shown.stdout
    assert "cost so far" not in scanfleet("scans", "show", scan_id, data_dir=tmp_path).stdout
