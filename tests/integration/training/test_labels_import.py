"""`scanfleet labels`, from a file to rows and back: all of a file or nothing, each image by its bytes."""

import csv
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from PIL import Image

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.labels.labels import CurrentLabel, current_labels
from scanfleet.db.tables import Label, LabelledImage, Verdict
from scanfleet.errors import BadLabels, SourceNotFound, StoreUnavailable, UnknownName
from scanfleet.models.pocket.scenes import overlay
from scanfleet.producer.cli.main import cli
from scanfleet.producer.cli.training import labels_import
from tests.helpers.migrated import upgrade
from tests.rigs.ledger_rig import ledger_with_scan
from tests.services import Bucket


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six generated pictures, all different: 0.png ... 5.png."""
    archive = tmp_path / "archive"
    archive.mkdir()
    for index in range(6):
        overlay.draw(11, index, 96, 64).image.save(archive / f"{index}.png")
    return archive


class Ledger:
    """The commands on a database of their own."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self._options = ["--data-dir", str(data_dir)]
        for name, value in settings.items():
            self._options += [f"--{name.replace('_', '-')}", value]
        self.engine = connect(load_settings(data_dir=data_dir, **settings))
        upgrade(self.engine)

    def run(self, *arguments: str | Path) -> Result:
        """Raises what the command raised, but its exit code."""
        result = CliRunner().invoke(cli, [*self._options, "labels", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def add(self, *arguments: str | Path, check: str = "overlay") -> Result:
        return self.run("import", *arguments, "--check", check, "--who", "ann")

    def standing(self, check: str = "overlay") -> list[CurrentLabel]:
        with reading(self.engine) as connection:
            return current_labels(connection, check)

    def count(self, table: Any = Label) -> int:
        with reading(self.engine) as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "data")
    yield ledger
    ledger.engine.dispose()


def table(path: Path, *rows: str, header: str = "uri,label") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


ALL = ("0.png,overlay", "1.png,overlay", "2.png,natural", "3.png,none", "4.png,none", "5.png,none")


def test_a_file_is_summarised_then_written_and_adds_nothing_twice(ledger: Ledger, folder: Path) -> None:
    file = table(folder / "m.csv", *ALL)
    dry = ledger.add(file, "--dry-run")
    assert ledger.count() == ledger.count(LabelledImage) == 0
    done = ledger.add(file)
    assert done.stdout == dry.stdout
    words = [line.split() for line in done.stdout.splitlines() if line]
    assert words[0] == ["label", "train", "calibration", "threshold", "golden", "none", "images", "boxes"]
    assert [(line[0], line[-2:]) for line in words[1:4]] == [
        ("overlay", ["2", "0"]), ("natural", ["1", "0"]), ("none", ["3", "0"]),
    ]  # fmt: skip
    assert all(sum(map(int, line[1:6])) == int(line[6]) for line in words[1:4])
    assert " ".join(words[4]) == "6 labels to add"
    standing = {Path(one.uri).name: one for one in ledger.standing()}
    assert {name: one.label for name, one in standing.items()} == dict(row.split(",") for row in ALL)
    one = standing["0.png"]
    assert (one.content_sha256, one.root, one.width, one.height, one.who, one.boxes) == (
        sha(folder / "0.png"), str(folder), 96, 64, "ann", None,
    )  # fmt: skip
    again = ledger.add(file)
    assert "nothing was written" in again.stderr
    assert ledger.count() == 6


def test_repeated_rows_are_counted_apart_from_labels_that_were_there(ledger: Ledger, folder: Path) -> None:
    file = table(folder / "m.csv", "0.png,overlay", "0.png,overlay", "1.png,none", "0.png,overlay")
    out = ledger.add(file).stdout
    assert "2  labels repeated in the file" in out
    assert "already" not in out
    out = ledger.add(file).stdout
    assert "2  labels that the ledger already has" in out
    assert "2  labels repeated in the file" in out


def test_the_split_is_held_to_also_when_images_came_meanwhile(ledger: Ledger, folder: Path) -> None:
    def between(*_: object, **__: object) -> bool:
        with pytest.MonkeyPatch.context() as other:
            other.setattr(labels_import, "confirm", lambda *_, **__: True)
            ledger.add(table(folder / "n.csv", "0.png,none"), "--split", "train")
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels_import, "confirm", between)
        with pytest.raises(BadLabels, match=r"1 of 2 images .* golden"):
            ledger.add(table(folder / "m.csv", "0.png,none", "1.png,none"), "--split", "golden")
    assert ledger.count() == ledger.count(LabelledImage) == 1


def test_labels_follow_the_bytes_and_learn_where_they_are_now(ledger: Ledger, folder: Path) -> None:
    ledger.add(table(folder / "m.csv", "0.png,overlay"))
    (folder / "moved").mkdir()
    (folder / "0.png").rename(folder / "moved/x.png")
    ledger.add(table(folder / "m.csv", "moved/x.png,overlay", "1.png,none"))
    assert {Path(one.uri).name: one.label for one in ledger.standing()} == {"x.png": "overlay", "1.png": "none"}
    assert ledger.count() == 2


@pytest.mark.parametrize("form", ["csv", "jsonl", "coco"])
def test_what_is_exported_can_be_imported_elsewhere_and_here(
    ledger: Ledger, folder: Path, tmp_path: Path, form: str
) -> None:
    box = '"overlay 1.25 2 30 40.5; natural 5 6 7 8"'
    rows = (f"0.png,overlay,{box},bob,bag,a note,random", "1.png,none,,,,,", "2.png,natural,[],,,,")
    ledger.add(table(folder / "m.csv", *rows, header="uri,label,boxes,who,group,note,drawn"))
    file = tmp_path / ("out.json" if form == "coco" else f"out.{form}")
    ledger.run("export", "--check", "overlay", "--format", form, "-o", file)
    assert "nothing was written" in ledger.add(file).stderr
    other = Ledger(tmp_path / "other")
    other.run("import", file, "--check", "overlay", "--who", "somebody else")

    def essence(labels: list[CurrentLabel]) -> list[Any]:
        return [
            (
                one.content_sha256,
                one.label,
                one.boxes or None,
                one.who,
                one.group,
                one.note,
                one.drawn,
                one.uri,
                one.split,
            )
            for one in labels
        ]

    assert essence(other.standing()) == essence(ledger.standing())
    assert len(other.standing()) == 3


def test_twins_and_copies_are_counted_and_share_a_split(ledger: Ledger, folder: Path) -> None:
    (folder / "twin.png").write_bytes((folder / "0.png").read_bytes())
    with Image.open(folder / "1.png") as image:
        image.save(folder / "copy.jpg", quality=80)
        image.resize((144, 96)).save(folder / "large.png")
    out = ledger.add(
        table(folder / "m.csv", "0.png,none", "twin.png,none", "1.png,none", "copy.jpg,none", "large.png,none")
    ).stdout
    assert "1  names with the same bytes" in out
    assert "3  images that resemble another one" in out
    clusters = {Path(one.uri).name: (one.cluster, one.split) for one in ledger.standing()}
    assert clusters["1.png"] == clusters["copy.jpg"] == clusters["large.png"]
    assert len({cluster for cluster, _ in clusters.values()}) == 2
    later = table(folder / "later.csv", "again.jpg,none")
    with Image.open(folder / "0.png") as image:
        image.save(folder / "again.jpg", quality=70)
    assert "1  images that resemble another one" in ledger.add(later).stdout
    found = {Path(one.uri).name: one.split for one in ledger.standing()}
    assert found["again.jpg"] == next(
        one.split for one in ledger.standing() if one.content_sha256 == sha(folder / "0.png")
    )


def test_suggestions_may_be_filled_in_by_half(ledger: Ledger, folder: Path) -> None:
    rows = ("0.png,overlay,threshold", "1.png,,random", "2.png,none,random")
    assert "1  rows without a label" in ledger.add(table(folder / "m.csv", *rows, header="uri,label,drawn")).stdout
    assert {Path(one.uri).name: one.drawn for one in ledger.standing()} == {"0.png": "threshold", "2.png": "random"}


def test_groups_stay_on_one_side(ledger: Ledger, folder: Path) -> None:
    rows = [f"{index}.png,none,{'odd' if index % 2 else 'even'}" for index in range(6)]
    ledger.add(table(folder / "m.csv", *rows[:3], header="uri,label,bag"), "--group-column", "bag")
    ledger.add(table(folder / "n.csv", *rows[3:], header="uri,label,bag"), "--group-column", "bag")
    clusters = {Path(one.uri).stem: one.cluster for one in ledger.standing()}
    assert len({clusters[name] for name in "024"}) == 1
    assert len({clusters[name] for name in "135"}) == 1
    assert len(set(clusters.values())) == 2


def test_a_golden_set_by_choice(ledger: Ledger, folder: Path) -> None:
    ledger.add(table(folder / "m.csv", "0.png,overlay"), "--split", "train")
    with transaction(ledger.engine) as connection:  # as if by its hash
        connection.execute(sa.update(LabelledImage).values(split="golden"))
    out = ledger.add(table(folder / "g.csv", "1.png,overlay"), "--split", "golden", "--dry-run").stdout
    assert "1  images of this check were golden by hash" in out
    with transaction(ledger.engine) as connection:
        connection.execute(sa.update(LabelledImage).values(split="train"))
    file = table(folder / "g.csv", "0.png,overlay", "1.png,overlay", "2.png,natural")
    for more in ((), ("--yes",), ("--dry-run",)):
        with pytest.raises(BadLabels, match=r"^1 of 3 images .* golden .*--where-possible"):
            ledger.add(file, "--split", "golden", *more)
    assert ledger.count() == ledger.count(LabelledImage) == 1
    assert ledger.add(file, "--where-possible").exit_code == 2
    out = ledger.add(file, "--split", "golden", "--where-possible").stdout
    assert "1  images outside split golden" in out
    ledger.add(table(folder / "n.csv", "3.png,none", "4.png,none", "5.png,none"))
    splits = {Path(one.uri).name: one.split for one in ledger.standing()}
    assert [name for name, split in splits.items() if split == "golden"] == sorted(
        ["1.png", "2.png"], key=lambda name: sha(folder / name)
    )
    assert splits["0.png"] == "train"


def test_images_that_cannot_be_read_are_left_out_and_named(ledger: Ledger, folder: Path) -> None:
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "out.png").symlink_to("/etc/passwd")
    file = table(folder / "m.csv", "cut.png,none", "gone.png,none", "out.png,none", "1.png,none")
    refused = ledger.add(file)  # nobody can be asked
    assert (refused.exit_code, ledger.count()) == (2, 0)
    done = ledger.add(file, "--yes")
    assert "warning: 3 of 4 images could not be read" in done.stderr
    assert "3  images that could not be read" in done.stdout
    for words in ("cut.png: decode: truncated", "gone.png: fetch: gone", "out.png: fetch: refused"):
        assert words in done.stderr
    assert [Path(one.uri).name for one in ledger.standing()] == ["1.png"]
    few = ledger.add(table(folder / "m.csv", "gone.png,none", "2.png,none"))
    assert (few.exit_code, ledger.count()) == (0, 2)
    assert "warning" not in few.stderr
    with pytest.raises(BadLabels, match=r"none of the .* could be read.*gone"):
        ledger.add(table(folder / "m.csv", "gone.png,none"))


def test_a_store_that_is_away_writes_nothing(ledger: Ledger, folder: Path) -> None:
    file = table(folder / "m.csv", "0.png,none", f"{folder}/unmounted/a.png,none")
    with pytest.raises(StoreUnavailable) as found:
        ledger.add(file)
    assert found.value.exit_code == 75
    assert ledger.count() == ledger.count(LabelledImage) == 0


def test_an_import_that_dies_in_the_midst_leaves_nothing(ledger: Ledger, folder: Path) -> None:
    with transaction(ledger.engine) as connection:
        connection.execute(
            sa.text(
                "CREATE TRIGGER die BEFORE INSERT ON labels WHEN (SELECT count(*) FROM labels) = 3 "
                "BEGIN SELECT RAISE(ABORT, 'killed'); END"
            )
        )
    with pytest.raises(sa.exc.IntegrityError, match="killed"):
        ledger.add(table(folder / "m.csv", *ALL))
    assert ledger.count() == ledger.count(LabelledImage) == 0
    with transaction(ledger.engine) as connection:
        connection.execute(sa.text("DROP TRIGGER die"))
    ledger.add(folder / "m.csv")
    assert ledger.count() == 6


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            ["0.png,none,none 0 0 90 66"],
            "line 2: the box 0 0 90 66 lies outside the image, which has 96 x 64 pixels",
        ),
        (["0.png,none,none -3 0 90 60"], "lies outside the image"),
        (["0.png,none,none 96 60 96.5 64"], "has no area within the image"),
        (["0.png,none,", "twin.png,overlay,"], "none for the same bytes at line 2"),
        (["../0.png,none,"], "is not below"),
    ],
)
def test_errors_that_only_the_images_show(ledger: Ledger, folder: Path, rows: list[str], words: str) -> None:
    (folder / "twin.png").write_bytes((folder / "0.png").read_bytes())
    with pytest.raises(BadLabels) as found:
        ledger.add(table(folder / "m.csv", "1.png,none,", *rows, header="uri,label,boxes"), "--strict")
    assert words.replace("line 2", "line 3") in str(found.value)
    assert ledger.count() == ledger.count(LabelledImage) == 0


def test_a_box_outside_its_image_is_left_out_and_listed(ledger: Ledger, folder: Path) -> None:
    rows = ("0.png,overlay,overlay 0 0 90 66; overlay 1 2 3 4", "1.png,none,overlay 1 2 3 4", "2.png,none,")
    done = ledger.add(table(folder / "m.csv", *rows, header="uri,label,boxes"))
    assert "2  images and boxes that are not used: left out" in done.stdout
    assert sorted(line.split(": ")[2] for line in done.stderr.splitlines() if "left out: " in line) == [
        "line 2",
        "line 3",
    ]
    found = {Path(one.uri).name: (one.label, [box["x0"] for box in one.boxes or ()]) for one in ledger.standing()}
    assert found == {"0.png": ("overlay", [1.0]), "2.png": ("none", [])}


def test_tables_tell_what_is_added_changed_and_left_out(ledger: Ledger, folder: Path) -> None:
    ledger.add(table(folder / "m.csv", "0.png,overlay", "1.png,none"))
    rows = (
        "0.png,none,",
        "1.png,none,",
        "2.png,overlay,overlay 0 0 90 990; overlay 1 2 3 4",
        "3.png,none,overlay 1 2 3 4",
    )
    file = table(folder / "n.csv", *rows, "gone.png,none,", header="uri,label,boxes")
    done = ledger.add(file, "--dry-run")
    words = [" ".join(line.split()) for line in done.stdout.splitlines()]
    at = words.index("label added changed unchanged")
    assert words[at + 1 : at + 3] == ["overlay 1 0 0", "none 0 1 1"]
    at = words.index("left out because images or boxes")
    assert sorted(words[at + 1 :]) == [
        "a box without area, outside its image or not in numbers 1",
        "its label is in doubt 1",
        "the image cannot be read: gone 1",
    ]
    assert ledger.count() == 2


def test_attributes_are_kept_listed_exported_and_read_again(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    boxes = [{"x0": 1, "y0": 2, "x1": 30, "y1": 40, "label": "overlay", "attributes": {"text": "SALE"}}]
    line = {"uri": "0.png", "label": "overlay", "boxes": boxes, "attributes": {"size": "small"}}
    (folder / "m.jsonl").write_text(json.dumps(line))
    ledger.add(folder / "m.jsonl")
    assert "nothing was written" in ledger.add(folder / "m.jsonl").stderr
    assert json.loads(ledger.run("ls", "--format", "jsonl").stdout)["attributes"] == {"size": "small"}
    for form in ("csv", "jsonl", "coco"):
        file = tmp_path / f"out.{'json' if form == 'coco' else form}"
        ledger.run("export", "--check", "overlay", "--format", form, "-o", file)
        again = Ledger(tmp_path / f"data-{form}")
        again.add(file)
        ((one,), (two,)) = again.standing(), ledger.standing()
        assert (one.label, one.boxes, one.attributes) == (two.label, two.boxes, two.attributes)
        assert (one.boxes, one.attributes) == (boxes, {"size": "small"})
        again.engine.dispose()


def test_boxes_about_the_stored_picture_are_turned_as_exif_says(ledger: Ledger, folder: Path) -> None:
    tags = Image.Exif()
    tags[0x112] = 6  # a quarter clockwise: 96 x 64 stored, 64 x 96 upright
    with Image.open(folder / "0.png") as image:
        image.convert("RGB").save(folder / "turned.jpg", exif=tags.tobytes())
    body = {
        "images": [{"id": 1, "file_name": "turned.jpg", "width": 96, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 4, 20, 30]}],
        "categories": [{"id": 1, "name": "overlay"}],
    }
    (folder / "c.json").write_text(json.dumps(body))
    ledger.add(folder / "c.json")
    ((box,),) = [one.boxes for one in ledger.standing()]
    assert [box[side] for side in ("x0", "y0", "x1", "y1")] == [30, 10, 60, 30]


def test_folders_of_windows_are_found_if_there_is_no_such_name(ledger: Ledger, folder: Path) -> None:
    (folder / "x").mkdir()
    for name, number in (("x/a.png", 0), ("x\\b.png", 1), ("x/b.png", 2)):
        (folder / f"{number}.png").rename(folder / name)
    rows = ("x\\a.png,overlay", "x\\b.png,natural", "..\\c.png,none")
    result = ledger.add(table(folder / "t.csv", *rows))
    assert {one.uri.removeprefix(f"{folder}/"): one.label for one in ledger.standing()} == {
        "x/a.png": "overlay",
        "x\\b.png": "natural",
    }
    assert "..\\c.png: fetch: gone" in result.stderr


def test_spaces_at_the_ends_of_a_name_are_its_own_if_there_is_such_an_image(ledger: Ledger, folder: Path) -> None:
    (folder / "0.png").rename(folder / " 0.png ")
    ledger.add(table(folder / "m.csv", '" 0.png ",overlay', '"1.png ",none', "2.png,none"))
    assert {Path(one.uri).name: one.label for one in ledger.standing()} == {
        " 0.png ": "overlay",
        "1.png": "none",
        "2.png": "none",
    }


def test_answers_of_a_model_are_no_labels_of_a_person(ledger: Ledger, folder: Path) -> None:
    header = "uri,label,decision,margin,scorer_id,truth"
    file = table(folder / "r.csv", "0.png,overlay,flag,2.5,1,none", header=header)
    with pytest.raises(BadLabels, match="--label-column"):
        ledger.add(file)
    ledger.add(file, "--label-column", "truth")
    assert [one.label for one in ledger.standing()] == ["none"]


def test_yolo_and_label_studio_boxes_come_back_within_a_pixel(ledger: Ledger, folder: Path) -> None:
    dice = random.Random(3)
    wanted: dict[str, list[tuple[float, ...]]] = {}
    for index in range(6):
        boxes, lines = [], []
        for _ in range(index):
            x0, y0 = dice.randrange(90), dice.randrange(60)
            x1, y1 = dice.randrange(x0 + 2, 97), dice.randrange(y0 + 2, 65)
            boxes.append((x0, y0, x1, y1))
            lines.append(f"0 {(x0 + x1) / 192:.6f} {(y0 + y1) / 128:.6f} {(x1 - x0) / 96:.6f} {(y1 - y0) / 64:.6f}")
        wanted[f"{index}.png"] = boxes
        (folder / f"{index}.txt").write_text("\n".join(lines))
    (folder / "classes.txt").write_text("text\n")
    ledger.add(folder, "--map", "text=overlay", "--empty", "none")
    for one in ledger.standing():
        name = Path(one.uri).name
        assert one.label == ("overlay" if wanted[name] else "none")
        found = [tuple(box[side] for side in ("x0", "y0", "x1", "y1")) for box in one.boxes or ()]
        assert found == [pytest.approx(box, abs=0.05) for box in wanted[name]]


def test_the_verdict_of_then_is_kept_with_a_label(tmp_path: Path, folder: Path) -> None:
    data_dir = tmp_path / "scored"
    ledger_with_scan(data_dir, n_verdicts=2)
    ledger = Ledger(data_dir)
    with transaction(ledger.engine) as connection:
        first, second = connection.execute(sa.select(Verdict.id).order_by(Verdict.id)).scalars()
        values = {"content_sha256": sha(folder / "0.png")}
        connection.execute(sa.update(Verdict).where(Verdict.id == first).values(values | {"label": "none"}))
        connection.execute(sa.update(Verdict).where(Verdict.id == second).values(values | {"margin": 2.5}))
    ledger.add(table(folder / "m.csv", "0.png,natural", "1.png,none"))
    shown = {Path(one.uri).name: one.shown for one in ledger.standing()}
    assert shown == {
        "0.png": {"label": "overlay", "decision": "flag", "score": None, "margin": 2.5, "scorer": 1},
        "1.png": None,
    }
    ledger.run("add", folder / "0.png", "overlay", "--check", "overlay", "--who", "bob", "--settle")
    (one,) = [one for one in ledger.standing() if one.who == "bob"]
    assert one.shown is not None
    assert one.shown["margin"] == 2.5


def test_people_differ_until_it_is_settled(ledger: Ledger, folder: Path) -> None:
    image = folder / "0.png"
    ledger.add(table(folder / "m.csv", "0.png,overlay", "1.png,none"))
    file = table(folder / "n.csv", "0.png,none,bob", "1.png,none,bob", "0.png,natural,cid", header="uri,label,who")
    assert "1  images in conflict" in ledger.add(file).stdout
    assert "nothing was written" in ledger.add(file).stderr
    lines = ledger.run("conflicts", "--check", "overlay").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        [str(image), "ann", "overlay"], [str(image), "bob", "none"], [str(image), "cid", "natural"],
    ]  # fmt: skip
    said = ledger.run("add", image, "none", "--check", "overlay", "--who", "ann").stderr
    assert "people differ on it" in said
    assert len(ledger.standing()) == 1
    ledger.run("add", image, "none", "--check", "overlay", "--who", "boss", "--settle")
    assert [one.label for one in ledger.standing()] == ["none", "none"]
    assert "no conflicts" in ledger.run("conflicts", "--check", "overlay").stderr


def test_a_label_by_hand(ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    boxes = ("--box", "1 2 30 40", "--box", "natural 5 6 7 8", "--note", "n", "--group", "bag")
    said = ledger.run("add", "0.png", "overlay", "--check", "overlay", "--who", "ann", *boxes).stderr
    (one,) = ledger.standing()
    assert f"label {one.label_id}: overlay, split {one.split}" in said
    assert [(box["label"], box["x0"]) for box in one.boxes or ()] == [("overlay", 1.0), ("natural", 5.0)]
    assert (one.uri, one.note, one.group) == (str(folder / "0.png"), "n", "bag")
    again = ledger.run("add", "0.png", "overlay", "--check", "overlay", "--who", "ann", *boxes).stderr
    assert "ann gave this label before" in again
    for arguments, words in (
        (["1.png", "sky"], "'sky' is not a label of check overlay"),
        (["1.png", "none", "--box", "1 2 3"], "--box '1 2 3': write four numbers"),
        (["1.png", "none", "--box", "10,20,90,60"], "--box '10,20,90,60': write four numbers"),
        (["1.png", "none", "--box", "10, 20, 90, 60"], "--box '10, 20, 90, 60': write four numbers"),
        (["1.png", "none", "--box", "sky 1 2 3 4"], "'sky' is not a label"),
        (["1.png", "none", "--box", "overlay 1 2 3 4"], "labelled none, but a region in it overlay"),
        (["https://h/a.png", "none"], "cannot be read"),
        (["m.csv", "none"], "decode: not_an_image"),
    ):
        (folder / "m.csv").write_text("uri\n")
        with pytest.raises(BadLabels, match=words):
            ledger.run("add", *arguments, "--check", "overlay", "--who", "ann")
    for name in ("gone.png", "nowhere/gone.png"):
        with pytest.raises(SourceNotFound, match="fetch: gone"):
            ledger.run("add", name, "none", "--check", "overlay", "--who", "ann")
    assert ledger.count() == 1


def test_labels_are_listed_and_taken_back(ledger: Ledger, folder: Path) -> None:
    ledger.add(table(folder / "m.csv", *ALL))
    ledger.add(table(folder / "n.csv", "0.png,none,eve", "1.png,none,eve", header="uri,label,who"))
    lines = [json.loads(line) for line in ledger.run("ls", "--format", "jsonl", "--label", "none").stdout.splitlines()]
    assert [(line["who"], line["state"]) for line in lines] == [("eve", "conflict")] * 2 + [("ann", "counts")] * 3
    assert json.loads(ledger.run("ls", "--who", "nobody", "--format", "json").stdout) == []
    rows = list(csv.DictReader(ledger.run("ls", "--limit", "3", "--format", "csv").stdout.splitlines()))
    assert [row["id"] for row in rows] == ["8", "7", "6"]
    assert len(ledger.run("ls", "--limit", "2").stdout.splitlines()) == 3

    refused = ledger.run("undo", "--who", "eve")
    assert (refused.exit_code, ledger.count()) == (2, 8)
    assert "add --yes" in refused.stderr
    assert "--since" in ledger.run("undo").stderr
    assert "2 labels undone" in ledger.run("undo", "--who", "eve", "--since", "2026-01-01", "--yes").stderr
    assert "0 labels" in ledger.run("undo", "--who", "eve", "--yes").stderr
    assert len(ledger.standing()) == 6
    assert "1 label undone" in ledger.run("undo", "1").stderr
    assert len(ledger.standing()) == 5
    with pytest.raises(UnknownName):
        ledger.run("undo", "2", "77")
    assert len(ledger.standing()) == 5


def test_on_postgresql(pg_url: str, tmp_path: Path, folder: Path) -> None:
    ledger = Ledger(tmp_path / "data", database_url=pg_url)
    ledger.add(table(folder / "m.csv", *ALL), "--split", "golden")
    ledger.add(folder / "m.csv")
    assert [one.split for one in ledger.standing()] == ["golden"] * 6
    ledger.run("add", folder / "0.png", "none", "--check", "overlay", "--who", "bob", "--box", "1 2 3 4")
    assert len(ledger.run("conflicts", "--check", "overlay").stdout.splitlines()) == 3
    assert len(ledger.run("ls").stdout.splitlines()) == 8
    assert "1 label undone" in ledger.run("undo", "--who", "bob", "--yes").stderr
    assert len(ledger.run("export", "--check", "overlay").stdout.splitlines()) == 7
    ledger.engine.dispose()


def test_images_of_a_bucket(ledger: Ledger, folder: Path, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANFLEET_S3_ENDPOINT_URL", s3_bucket.endpoint_url)
    for name in ("0.png", "1.png"):
        s3_bucket.put(f"in/{name}", (folder / name).read_bytes())
    file = table(folder / "m.csv", "0.png,overlay", f"s3://{s3_bucket.name}/in/1.png,none", "2.png,none")
    done = ledger.add(file, "--root", f"s3://{s3_bucket.name}/in")
    assert "1  images that could not be read" in done.stdout
    assert {one.uri: one.label for one in ledger.standing()} == {
        f"s3://{s3_bucket.name}/in/0.png": "overlay",
        f"s3://{s3_bucket.name}/in/1.png": "none",
    }


def test_labels_are_imported_without_torch_and_numpy(folder: Path, tmp_path: Path) -> None:
    file = table(folder / "m.csv", *ALL)
    code = (
        "import sys; from scanfleet.producer.cli.main import main; code = main(); "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules], code)"
    )
    arguments = ["--data-dir", str(tmp_path / "d"), "labels", "import", str(file), "--check", "overlay"]
    answer = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[] 0"
