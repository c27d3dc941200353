"""A generated picture goes if the champion is confident of the opposite of its label."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.models.pocket.generate import Order, write_archive
from scanfleet.worker.commands.generate import _filter, contradicted
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import load_model

CHECK = load_check("overlay")


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> Resolved:
    settings = load_settings(data_dir=tmp_path_factory.mktemp("pocket"), model="pocket", device="cpu")
    return resolve_alone(load_model(settings), CHECK, None)


def archive(folder: Path) -> list[dict[str, str]]:
    manifest = write_archive(Order(check="overlay", n=24, seed=5, out=folder, sizes=(128,)))
    with manifest.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_confident_contradiction_is_left_out_and_a_doubt_is_not(tmp_path: Path, resolved: Resolved) -> None:
    opposite = {"overlay": "none", "natural": "overlay", "none": "overlay"}
    turned = [row | {"truth": opposite[row["truth"]]} for row in archive(tmp_path)]
    flagged = {row["uri"]: probability(resolved, tmp_path / row["uri"]) for row in turned}
    against = {row["uri"]: flagged[row["uri"]] if row["truth"] == "none" else 1 - flagged[row["uri"]] for row in turned}
    wrong = {row["uri"] for row in contradicted(resolved, CHECK, tmp_path, turned)}
    assert wrong == {uri for uri, share in against.items() if share >= 0.9}
    assert wrong
    assert any(0.5 < share < 0.9 for share in against.values())


def probability(resolved: Resolved, path: Path) -> float:
    """That the picture flags, at even odds."""
    assert resolved.policy.calibrator is not None
    prepared = resolved.scorer.prepare(Image.open(path).convert("RGB"))
    return resolved.policy.calibrator.probability(resolved.scorer.score([prepared])[0].margin, prevalence=0.5)


def test_without_a_calibrated_champion_nothing_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    archive(tmp_path / "pictures")
    settings = load_settings(data_dir=tmp_path / "data", model="fake")
    before = (tmp_path / "pictures/manifest.csv").read_text()
    generated = _filter(settings, CHECK, tmp_path / "pictures/manifest.csv")
    assert (generated.n, generated.contradicted) == (24, 0)
    assert generated.unfiltered == "no calibrated adapter is in use"
    assert (tmp_path / "pictures/manifest.csv").read_text() == before
