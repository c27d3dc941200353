"""How far a scorer's margins moved where it runs: kept with the scorer, the widest, and shown."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.results.scorers import record_shift
from scanfleet.db.tables import ScorerRow
from scanfleet.producer.cli.main import cli
from tests.helpers.migrated import upgrade
from tests.rigs.ledger_rig import ledger_with_scan
from tests.rigs.shifts import shift, tell_at_once

WORDS = "checked on 16 canary images: margins within 0.300 of those stored with the adapter (fp32), 0.075 on average"


def test_of_concurrent_shifts_the_widest_stays(tmp_path: Path) -> None:
    engine = connect(load_settings(data_dir=tmp_path))
    upgrade(engine)
    assert tell_at_once(engine) == asdict(shift(0.3))
    engine.dispose()


def test_a_narrower_one_changes_nothing_and_no_other_scorer_is_touched(tmp_path: Path) -> None:
    ledger_with_scan(tmp_path / "one")
    engine = connect(load_settings(data_dir=tmp_path / "one"))
    with transaction(engine) as connection:
        (row,) = connection.execute(sa.select(ScorerRow.id, ScorerRow.shift)).all()
        assert row.shift is None
        for width, held in ((0.2, 0.2), (0.1, 0.2), (0.25, 0.25)):
            record_shift(connection, row.id, shift(width))
            assert connection.execute(sa.select(ScorerRow.shift)).scalar_one() == asdict(shift(held))
        record_shift(connection, row.id + 1, shift(9.0))
        assert connection.execute(sa.select(ScorerRow.shift)).scalar_one() == asdict(shift(0.25))
    engine.dispose()


def test_show_and_the_report_show_it_and_nothing_where_it_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANFLEET_DATA_DIR", str(tmp_path))
    scan_id = ledger_with_scan(tmp_path)

    def run(*arguments: str) -> str:
        answer = CliRunner().invoke(cli, ["scans", *arguments], catch_exceptions=False)
        assert answer.exit_code == 0
        return answer.stdout

    def sheet() -> str:
        run("report", scan_id, "-o", str(tmp_path / "sheet.html"))
        return " ".join((tmp_path / "sheet.html").read_text().split())

    assert "known images" not in run("show", scan_id) + sheet()
    engine = connect(load_settings(data_dir=tmp_path))
    with transaction(engine) as connection:
        record_shift(connection, 1, shift(0.3))
    engine.dispose()
    assert WORDS in run("show", scan_id)
    assert WORDS.capitalize() in sheet()
    (found,) = json.loads(run("show", scan_id, "--format", "json"))["scorers"]
    assert found["shift"] == asdict(shift(0.3))
