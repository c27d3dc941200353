"""`scanfleet adapters compare`: the gate as a command, with the built-in model in a child process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from scanfleet.config.settings import load_settings
from scanfleet.db.base import Base
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.schema import ledger
from scanfleet.db.tables import Adapter, Champion, Image, LabelledImage, Verdict
from scanfleet.errors import BadLabels, BadSettings, UnknownName
from scanfleet.models.inputs.sources import locate
from scanfleet.models.promotion import GateReport
from scanfleet.models.types import ModelIdentity
from scanfleet.producer.cli.main import cli
from scanfleet.worker.commands.compare import Comparison
from scanfleet.worker.evaluation.inputs import styles
from scanfleet.worker.scoring.adapters import register_shipped
from tests.rigs.training_rig import label_pictures
from tests.rigs.verdict_rig import VerdictRig


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with ledger(load_settings(data_dir=tmp_path)) as engine:
        revision = locate("pocket").revision
        register_shipped(
            engine, ModelIdentity(base_model="pocket", revision=revision, precision="fp32", adapter_sha256=None)
        )
        yield engine


@pytest.fixture
def overlay(engine: sa.Engine) -> int:
    """The id of the shipped adapter, which is the champion."""
    with reading(engine) as connection:
        return connection.execute(sa.select(Adapter.id).where(Adapter.check_name == "overlay")).scalar_one()


def compare(tmp_path: Path, *arguments: object) -> Result:
    command = ["--data-dir", str(tmp_path), "adapters", "compare", *map(str, arguments)]
    return CliRunner().invoke(cli, command, env={"SCANFLEET_DEVICE": "cpu"})


@pytest.mark.slow
def test_an_adapter_is_judged_against_the_base_alone(engine: sa.Engine, overlay: int, tmp_path: Path) -> None:
    label_pictures(engine, tmp_path / "pictures")
    result = compare(tmp_path, overlay, "base", "--format", "json")
    assert result.exit_code == 0, result.output
    report = GateReport.from_record(json.loads(result.stdout))
    assert (report.champion, report.challenger, report.n_golden) == ("base alone", f"adapter {overlay}", 27)
    assert report.verdict == "hold"
    assert "9 distinct positive golden images, 10 needed" in report.reason
    outcomes = {each.gate: each.outcome for each in report.results}
    assert (outcomes["G0"], outcomes["G4"]) == ("pass", "pass")
    assert report.figures["challenger"]["auroc"] > report.figures["champion"]["auroc"]
    assert "trained elsewhere" in result.stderr
    assert not list((tmp_path / "tmp").iterdir())
    with reading(engine) as connection:
        assert connection.execute(sa.select(Champion.adapter_id).where(Champion.check_name == "overlay")).scalar_one()


def test_an_adapter_is_compared_with_the_champion_by_default(engine: sa.Engine, overlay: int, tmp_path: Path) -> None:
    result = compare(tmp_path, overlay)
    assert result.exit_code == 2
    assert "it is the champion itself" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((999,), UnknownName.exit_code, "no adapter 999"),
        (("{id}", 999), UnknownName.exit_code, "no adapter 999"),
        (("{id}", "zero"), 2, 'B is the id of an adapter or "base"'),
    ],
)
def test_invalid_requests_are_refused_before_a_model_is_loaded(
    engine: sa.Engine, overlay: int, tmp_path: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    result = compare(tmp_path, *(str(one).format(id=overlay) for one in arguments))
    assert getattr(result.exception, "exit_code", result.exit_code) == code
    assert words in result.output + str(result.exception)


class TestBeforeTheModelIsLoaded:
    def test_another_check(self, engine: sa.Engine, overlay: int, tmp_path: Path) -> None:
        with reading(engine) as connection:
            other = connection.execute(sa.select(Adapter.id).where(Adapter.check_name == "baggage")).scalar_one()
        with pytest.raises(BadSettings, match=f"adapter {overlay}"):
            Comparison(load_settings(data_dir=tmp_path), engine, tmp_path, adapter=overlay, against=other)

    def test_no_golden_images(self, engine: sa.Engine, overlay: int, tmp_path: Path) -> None:
        label_pictures(engine, tmp_path / "pictures", n=6)
        with transaction(engine) as connection:
            connection.execute(sa.update(LabelledImage).values(split="train"))
        with pytest.raises(BadLabels, match="check overlay"):
            Comparison(load_settings(data_dir=tmp_path), engine, tmp_path, adapter=overlay, against=None)


def test_an_adapter_that_cannot_be_loaded_is_named(engine: sa.Engine, overlay: int, tmp_path: Path) -> None:
    label_pictures(engine, tmp_path / "pictures")
    with transaction(engine) as connection:
        connection.execute(sa.update(Adapter).where(Adapter.id == overlay).values(uri=str(tmp_path / "gone")))
    settings = load_settings(data_dir=tmp_path, device="cpu")
    with pytest.raises(BadSettings, match=f"adapter {overlay} cannot be compared: .*gone"):
        Comparison(settings, engine, tmp_path, adapter=overlay, against=None)


def test_styles_come_from_the_manifest_of_a_scan_of_the_check(database_url: str) -> None:
    engine = connect(load_settings(database_url=database_url))
    Base.metadata.create_all(engine)
    mine, other = VerdictRig(engine), VerdictRig(engine, "baggage")
    mine.scan("s")
    keys = mine.verdicts("s", mine.scorer(), [1.0] * 4)
    other.scan("t")
    elsewhere = other.verdicts("t", other.scorer(), [1.0], folder="/other")
    with transaction(engine) as connection:
        connection.execute(sa.update(Image).values(meta={"style": "neon"}))
        for key, meta in ((keys[1], {"truth": "x"}), (keys[2], sa.null())):
            answered = sa.select(Verdict.image_id).where(Verdict.content_sha256 == key)
            connection.execute(sa.update(Image).where(Image.id.in_(answered)).values(meta=meta))
    with reading(engine) as connection:
        assert styles(connection, "overlay", [*keys, *elsewhere]) == {keys[0]: "neon", keys[3]: "neon"}
    engine.dispose()
