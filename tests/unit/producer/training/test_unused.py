"""Whoever scans with a version of a check that its adapter did not learn is told so, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from scanfleet.checks.check import Check, load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans.checks import save_check
from scanfleet.db.schema import ledger
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.champions import promote
from scanfleet.producer.cli.main import cli
from scanfleet.producer.training.unused import unused_adapter
from tests.rigs.worker_rig import png

BAGGAGE = load_check("baggage")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with ledger(load_settings(data_dir=tmp_path)) as opened:
        yield opened


def put_in_use(engine: sa.Engine, check: Check) -> None:
    made = AdapterInfo(
        check_name=check.name,
        check_hash=check.hash,
        base_model="pocket",
        base_revision="r",
        uri="/a",
        weights_sha256="a" * 64,
    )
    with transaction(engine) as connection:
        promote(connection, register_adapter(connection, made), kind="forced", why="test")


def said(engine: sa.Engine, check: Check) -> str | None:
    with reading(engine) as connection:
        return unused_adapter(connection, check, "pocket")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"descriptions": {"none": "no threat"}},  # the others are their labels
        {"descriptions": BAGGAGE.descriptions | {"gun": ""}},
        {"flags": tuple(reversed(BAGGAGE.flags))},
        {"target_recall": 0.5, "max_pixels": 100_000, "crop": "uncertain", "boxes": True},
    ],
)
def test_a_version_that_the_model_reads_alike_is_the_same_question(engine: sa.Engine, changes: dict[str, Any]) -> None:
    put_in_use(engine, BAGGAGE)
    assert said(engine, BAGGAGE.model_copy(update=changes)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "Which threat?"}, "prompts"),
        ({"labels": tuple(reversed(BAGGAGE.labels))}, "labels"),
        ({"flags": ("gun",)}, "flags"),
        ({"descriptions": {}}, "descriptions"),
        ({"descriptions": {"none": "no threat", "gun": "a gun"}}, "descriptions"),
    ],
)
def test_what_differs_is_named(engine: sa.Engine, changes: dict[str, Any], words: str) -> None:
    put_in_use(engine, BAGGAGE)
    assert f"it learnt other {words} (" in str(said(engine, BAGGAGE.model_copy(update=changes)))


def test_a_version_that_is_not_known_here_is_not_judged(engine: sa.Engine) -> None:
    assert said(engine, BAGGAGE) is None  # no adapter
    learnt = BAGGAGE.model_copy(update={"prompt": "Which threat?"})
    put_in_use(engine, learnt)
    assert said(engine, BAGGAGE) is None
    with transaction(engine) as connection:
        save_check(connection, learnt)
    assert "other prompts" in str(said(engine, BAGGAGE))


def call(data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--data-dir", str(data_dir), *arguments])


def test_scan_show_and_add_say_so(engine: sa.Engine, tmp_path: Path) -> None:
    put_in_use(engine, BAGGAGE)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(png(1))
    text = call(tmp_path, "checks", "show", "baggage").stdout
    mine = tmp_path / "mine.toml"
    for old, told in (("no threat", False), ("nothing", True)):
        mine.write_text(text.replace('"no threat"', f'"{old}"').replace('gun = "gun"\n', ""))
        added = call(tmp_path, "checks", "add", str(mine))
        shown = call(tmp_path, "checks", "show", "baggage")
        scanned = call(tmp_path, "scan", str(tmp_path / "photos"), "--check", "baggage", "--model", "pocket")
        scan = call(tmp_path, "scans", "show", scanned.stdout.split()[0])
        for result in (added, shown, scanned, scan):
            assert result.exit_code == 0, result.output
            assert ("it learnt other descriptions" in result.stderr) is told
            assert "it learnt" not in result.stdout
