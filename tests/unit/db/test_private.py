"""Who may read the embedded ledger."""

import os
import stat
from pathlib import Path

from scanfleet.config.settings import load_settings
from scanfleet.db.schema import ledger
from scanfleet.producer.local.doctor import check_services


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_that_we_make_is_for_its_owner(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "new" / "data")
    before = os.umask(0o022)
    try:
        with ledger(settings):
            assert mode(settings.data_dir) == 0o700
            assert {mode(path) for path in settings.data_dir.glob("scanfleet.db*")} == {0o600}
        assert mode(settings.make_folder("logs")) == 0o700
    finally:
        os.umask(before)
    (found,) = [one for one in check_services(settings) if one.name == "data folder"]
    assert found.status == "ok"


def test_a_wider_one_is_left_and_warned_of(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "shared")
    settings.data_dir.mkdir()
    settings.data_dir.chmod(0o770)
    with ledger(settings):
        assert mode(settings.data_dir) == 0o770
    (found,) = [one for one in check_services(settings) if one.name == "data folder"]
    assert (found.status, "770" in found.text) == ("warn", True)
