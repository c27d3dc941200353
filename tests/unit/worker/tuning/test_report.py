"""The folder of a tuning: written atomically, and readable by people and programs."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scanfleet.checks.check import load_check
from scanfleet.errors import RequestError
from scanfleet.producer.cli.training.tune import show_report
from scanfleet.worker.tuning import report
from scanfleet.worker.tuning.run import Tuning
from scanfleet.worker.tuning.search_space import FixedParts
from tests.unit.worker.tuning.test_search import crop_helps, plan
from tests.unit.worker.tuning.tuned_scores import IDENTITY, QUESTION, PlantedScores, examples


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    scores = PlantedScores(examples(120), helps=crop_helps)
    tuning = Tuning(
        plan(trials=20, name="specks-2"),
        question=QUESTION,
        identity=IDENTITY,
        fixed=FixedParts(),
        examples=scores.examples,
        scores=scores,
    )
    return tuning.run(lambda *_: None) | {"images": tuning.images_record({"a.png": "gone"})}


def test_it_holds_every_figure_a_picture_and_the_check(record: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    report.write_report(folder, record)
    assert sorted(path.name for path in folder.iterdir()) == ["check.toml", "front.png", "report.html", "report.json"]
    assert json.loads((folder / report.JSON).read_text()) == record
    with Image.open(folder / report.PNG) as picture:
        assert picture.size == (900, 550)
    check = load_check(str(folder / report.TOML))
    assert (check.name, check.hash) == ("specks-2", record["tuned"]["hash"])
    page = (folder / report.HTML).read_text()
    assert record["reason"].split(" [")[0].replace("+", "&#43;") in page or record["reason"] in page
    assert page.count("<td>candidate</td>") == len(record["front"]) - 1


def test_what_was_best_on_the_search_half_is_a_candidate_until_it_is_chosen(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undecided = record | {"tuned": None, "chosen": None}
    show_report(undecided, as_json=False)
    kinds = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert kinds == ["current", "larger budget", *["candidate"] * len(record["front"])]
    show_report(record, as_json=False)
    assert capsys.readouterr().out.count("\nchosen ") == 1
    report.write_report(tmp_path / "out", undecided)
    assert (tmp_path / "out" / report.HTML).read_text().count("<td>candidate</td>") == len(record["front"])


def test_markup_in_notes_is_escaped_in_the_page(record: dict[str, Any], tmp_path: Path) -> None:
    report.write_report(tmp_path / "out", record | {"notes": ["<script>alert(1)</script>"]})
    assert "<script>" not in (tmp_path / "out" / report.HTML).read_text()


def test_without_a_choice_there_is_no_check_file(record: dict[str, Any], tmp_path: Path) -> None:
    report.write_report(tmp_path / "out", record | {"tuned": None, "chosen": None, "front": []})
    assert not (tmp_path / "out" / report.TOML).exists()


def test_a_folder_that_was_filled_meanwhile_is_left_alone(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(RequestError, match=str(tmp_path / "out")):
        report.write_report(tmp_path / "out", record)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_the_chosen_setting_comes_with_its_calibration(record: dict[str, Any]) -> None:
    tuned = record["tuned"]
    assert tuned["configuration"]["check_hash"] == tuned["hash"]
    fitted = tuned["fitted"]
    assert fitted["calibrator"]["a"] > 0
    assert set(fitted["first_thresholds"]) == {"review", "flag"}
    assert fitted["metrics"]["certified_on"] == record["images"]["held_out"]["n"]
    unmet = fitted["metrics"]["recall_certificate"]["met"] is False
    assert (fitted["thresholds"]["review"] is None) == unmet
    assert any("recall 0.95" in note for note in record["notes"]) == unmet
