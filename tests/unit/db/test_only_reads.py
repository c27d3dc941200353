"""A ledger in a folder that this process may not write is read all the same, and only where nothing else is asked."""

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.helpers.cli_call import scanfleet
from tests.rigs.ledger_rig import ledger_with_scan
from tests.unit.producer.sources.test_sources import unprivileged

QUESTIONS = (("ls",), ("show", "/none/000.jpg"), ("history", "/none/000.jpg"), ("facets", "--by", "scan"))


@pytest.mark.parametrize("written", [False, True])
def test_results_need_no_permission_to_write(written: bool) -> None:
    """written: another process has the ledger open, and its last write is in the log alone."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "data"
        folder.mkdir()
        scan = ledger_with_scan(folder, n_verdicts=2)
        writer = sqlite3.connect(folder / "scanfleet.db")
        if written:
            writer.execute("UPDATE verdicts SET label = 'overlay'")
            writer.commit()
        for place in (Path(name), folder):
            place.chmod(0o555)
        for file in folder.iterdir():
            file.chmod(0o444)
        before = sorted(folder.iterdir())
        with unprivileged():
            for command in (
                ("ls",),
                ("show", "/none/000.jpg"),
                ("history", "/none/000.jpg"),
                ("facets", "--by", "scan"),
            ):
                done = scanfleet("results", *command, data_dir=folder)
                assert (done.returncode, "overlay" in done.stdout or scan in done.stdout) == (0, True), done.stderr
            done = scanfleet("results", "sql", "select count(*) as n from verdicts", data_dir=folder)
            assert done.stdout.split() == ["n", "2"], done.stderr
            done = scanfleet("scans", "pause", scan, data_dir=folder)
            assert (done.returncode, "no permission to write" in done.stderr) == (10, True)
        assert sorted(folder.iterdir()) == before
        assert (folder / "scanfleet.db-wal").exists() == written
        writer.close()
        for place in (Path(name), folder):
            place.chmod(0o755)
