"""What `scanfleet tune` takes from a ledger and from files, and what it writes, on SQLite and on PostgreSQL."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from PIL import Image

from scanfleet.checks.check import Check, load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, now, reading, transaction
from scanfleet.db.labels.labels import NewLabel, add_labels
from scanfleet.db.results.calibrations import Configuration, calibration_for
from scanfleet.db.scans.checks import resolve_check
from scanfleet.db.tables import LabelledImage
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.champions import promote
from scanfleet.errors import BadCheck, BadLabels, BadSettings, RequestError, UnknownName
from scanfleet.models.pocket.scenes import overlay
from scanfleet.producer.cli.main import cli
from scanfleet.producer.training import tuning
from tests.helpers.migrated import upgrade

CHECK = load_check("overlay")


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=database_url, data_dir=tmp_path))
    upgrade(engine)
    yield engine
    engine.dispose()


def label(engine: sa.Engine, splits: dict[str, str], *, says: str = "overlay") -> None:
    """name -> split"""
    with transaction(engine) as connection:
        for name, split in splits.items():
            row = {"content_sha256": name, "uri": f"/a/{name}", "root": "/a", "width": 8, "height": 9, "phash": "0"}
            row |= {"cluster": f"of {name}", "split": split, "added_at": now(connection)}
            connection.execute(sa.insert(LabelledImage).values(row))
            add_labels(connection, "overlay", [NewLabel(content_sha256=name, label=says, who="ann", origin="person")])


def test_golden_images_are_left_alone(engine: sa.Engine) -> None:
    label(engine, {"a": "train", "b": "calibration", "c": "threshold", "d": "golden", "e": "none"})
    rows = tuning.from_ledger(engine, CHECK, taught=False)
    assert {row["content_sha256"] for row in rows} == {"a", "b", "c"}
    assert rows[0] == {
        "content_sha256": "a",
        "uri": "/a/a",
        "root": "/a",
        "label": "overlay",
        "cluster": "of a",
        "width": 8,
        "height": 9,
    }


def test_what_an_adapter_learnt_from_does_not_judge_it(engine: sa.Engine) -> None:
    label(engine, {"a": "train", "b": "calibration", "c": "threshold"})
    assert {row["content_sha256"] for row in tuning.from_ledger(engine, CHECK, taught=True)} == {"b", "c"}


def test_a_ledger_without_labels_says_what_to_do(engine: sa.Engine) -> None:
    with pytest.raises(BadLabels, match="labels import"):
        tuning.from_ledger(engine, CHECK, taught=False)
    label(engine, {"a": "train"}, says="something else")
    with pytest.raises(BadLabels, match="something else"):
        tuning.from_ledger(engine, CHECK, taught=False)


def test_the_adapter_of_scans_answers(engine: sa.Engine, tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    assert tuning.answering(engine, CHECK, settings, None) == tuning.Answering(folder="shipped")
    assert tuning.answering(engine, CHECK, settings, "/mine").folder == "/mine"
    info = AdapterInfo(
        check_name="overlay",
        check_hash=CHECK.hash,
        base_model="pocket",
        base_revision="1",
        uri="/own",
        weights_sha256="w",
    )
    with transaction(engine) as connection:
        promote(connection, register_adapter(connection, info), who="ann", why="", kind="forced")
    found = tuning.answering(engine, CHECK, settings, None)
    assert found.registered is not None
    assert (found.folder, found.registered["uri"], found.taught) == (None, "/own", True)
    assert AdapterInfo(**found.registered).weights_sha256 == "w"


TUNED: dict[str, Any] = {
    "check": CHECK.as_file()
    | {"name": "overlay", "max_pixels": 300 * 300, "crop": {"when": "always", "crop_pixels": 900}},
    "configuration": {
        "base_model": "pocket",
        "base_revision": "1",
        "precision": "fp32",
        "weights_sha256": None,
    },
    "fitted": {
        "calibrator": {"a": 1.0, "b": 0.0, "n": 20, "prevalence": 0.5, "method": "platt"},
        "thresholds": {"review": None, "flag": 1.0},
        "first_thresholds": {"review": -1.0, "flag": 2.0},
        "metrics": {"n": 20},
    },
}


def test_what_was_chosen_becomes_the_check_with_its_own_calibration(engine: sa.Engine) -> None:
    expected = Check.model_validate(TUNED["check"])
    configuration = TUNED["configuration"] | {"check_hash": expected.hash}
    assert tuning.apply(engine, TUNED | {"configuration": configuration}, who="ann") == expected.hash
    with reading(engine) as connection:
        assert resolve_check(connection, "overlay") == expected
        held = calibration_for(connection, Configuration(**configuration))
    assert held is not None
    assert (held.thresholds, held.first_thresholds) == ({"review": None, "flag": 1.0}, {"review": -1.0, "flag": 2.0})


def test_a_calibration_that_cannot_be_stored_leaves_the_check_as_it_was(engine: sa.Engine) -> None:
    with pytest.raises(TypeError):
        tuning.apply(engine, TUNED, who="ann")  # a configuration without a check
    with reading(engine) as connection:
        assert resolve_check(connection, "overlay") == CHECK


# The rest needs no database.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """0.png ... 3.png, and 4.png with the bytes of 3.png."""
    archive = tmp_path / "archive"
    archive.mkdir()
    for index in range(4):
        overlay.draw(11, index, 96, 64).image.save(archive / f"{index}.png")
    (archive / "4.png").write_bytes((archive / "3.png").read_bytes())
    return archive


def labels_file(folder: Path, *rows: tuple[str, ...], header: tuple[str, ...] = ("uri", "label")) -> tuning.LabelFile:
    path = folder / "truth.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return tuning.LabelFile(
        path=path, form="auto", root=None, label_column="label", group_column=None, pairs=(), empty=None
    )


def read(file: tuning.LabelFile, tmp_path: Path, *, skip: bool = False) -> tuple[list[dict[str, Any]], dict[str, str]]:
    settings: Settings = load_settings(data_dir=tmp_path)
    return tuning.from_file(file, CHECK, settings, skip_unreadable=skip, on_progress=lambda *_: None)


def test_a_file_names_images_from_where_it_lies(folder: Path, tmp_path: Path) -> None:
    rows, unread = read(labels_file(folder, ("0.png", "overlay"), ("3.png", "none"), ("4.png", "none")), tmp_path)
    assert [(Path(row["uri"]).name, row["label"], row["width"]) for row in rows] == [
        ("0.png", "overlay", 96),
        ("4.png", "none", 96),
    ]
    assert not unread


def test_images_of_a_group_stay_together(folder: Path, tmp_path: Path) -> None:
    grouped = [("0.png", "overlay", "bag"), ("1.png", "none", "bag"), ("2.png", "none", "")]
    rows, _ = read(labels_file(folder, *grouped, header=("uri", "label", "group")), tmp_path)
    clusters = [row["cluster"] for row in rows]
    assert clusters[0] == clusters[1] != clusters[2]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("0.png", "banner")], "'banner' is not a label of check overlay.*; nothing was tuned$"),
        ([("0.png", "none"), ("9.png", "none")], r": 1 image cannot be read: .*9.png.*--skip-unreadable"),
        ([("0.png", "none"), ("8.png", "none"), ("9.png", "none")], ": 2 images cannot be read: .*leaves them out"),
        ([("9.png", "none")], "is --root right"),
        ([("", "none")], "; nothing was tuned$"),
        (
            [("3.png", "none"), ("4.png", "overlay")],
            r"line 3: \S+/4.png is labelled overlay, and \S+/3.png, the same picture, is labelled none in line 2",
        ),
        (
            [("9.png", "none"), ("9.png", "overlay")],
            r"line 3: \S+/9.png is labelled overlay here and none in line 2; nothing was tuned$",
        ),
    ],
)
def test_a_wrong_file_is_reported_in_one_line(
    folder: Path, tmp_path: Path, rows: list[tuple[str, ...]], words: str
) -> None:
    with pytest.raises(BadLabels, match=words) as caught:
        read(labels_file(folder, *rows), tmp_path)
    assert "\n" not in str(caught.value)


def test_images_that_cannot_be_read_may_be_left_out(folder: Path, tmp_path: Path) -> None:
    rows, unread = read(labels_file(folder, ("0.png", "none"), ("9.png", "none")), tmp_path, skip=True)
    assert len(rows) == 1
    assert [Path(uri).name for uri in unread] == ["9.png"]


def run(tmp_path: Path, *arguments: str | Path) -> None:
    """Raises what the command raises."""
    options = ["--data-dir", str(tmp_path / "data"), "tune", "--labels", "none.csv", *map(str, arguments)]
    CliRunner().invoke(cli, options, catch_exceptions=False)


def test_what_cannot_be_tuned_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(BadCheck, match="overlay-steps has steps"):
        run(tmp_path, "--check", "overlay-steps")
    with pytest.raises(BadSettings, match="endpoint:gpt is an endpoint"):
        run(tmp_path, "--check", "overlay", "--model", "endpoint:gpt")
    with pytest.raises(UnknownName):
        run(tmp_path, "--check", "nothing")
    with pytest.raises(BadCheck, match="--as Über"):
        run(tmp_path, "--check", "overlay", "--as", "Über")
    (tmp_path / "old").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "old" / "a.png")
    with pytest.raises(RequestError, match="name a new folder"):
        run(tmp_path, "--check", "overlay", "--out", tmp_path / "old")
    with pytest.raises(RequestError, match="there is no folder"):
        run(tmp_path, "--check", "overlay", "--out", tmp_path / "not" / "there")


def test_a_cost_limit_below_one_is_refused(tmp_path: Path) -> None:
    found = CliRunner().invoke(cli, ["tune", "--check", "overlay", "--labels", "x.csv", "--max-cost", "0.9"])
    assert found.exit_code == 2
    assert "--max-cost" in found.output
