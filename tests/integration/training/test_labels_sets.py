"""Labels of a check of kind multi: a set of classes is a yes or no for each, in one transaction."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scanfleet.config.settings import load_settings
from scanfleet.db.schema import ledger
from scanfleet.errors import BadLabels
from scanfleet.producer.labels.file_import import prepare_file
from scanfleet.producer.labels.importing import write
from tests.helpers.cli_call import scanfleet

XRAY = 'kind = "multi"\nname = "xray"\nprompt = "Is there a {class}?"\nclasses = ["knife", "gun"]\n'
Said = dict[tuple[str, str], tuple[str, int | None]]  # (image, class) -> label and number of boxes


class Bags:
    """A ledger, a multi check and three pictures: both.png, one.png, empty.png of 200 x 100 pixels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "xray.toml").write_text(XRAY)
        for number, name in enumerate(("both", "one", "empty")):
            Image.effect_noise((200, 100), 40 + 20 * number).convert("RGB").save(folder / f"{name}.png")

    def run(self, *arguments: str) -> tuple[int, str]:
        done = scanfleet("labels", *arguments, "--check", "xray.toml", "--who", "ann", data_dir=self.folder)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    def rows(self) -> list[dict[str, Any]]:
        listed = scanfleet("labels", "ls", "--format", "jsonl", data_dir=self.folder).stdout
        return [row for row in map(json.loads, listed.splitlines()) if row["state"] == "counts"]

    def said(self) -> Said:
        return {
            (Path(row["uri"]).stem, row["check_name"].removeprefix("xray--")): (
                row["label"],
                None if row["boxes"] is None else len(row["boxes"]),
            )
            for row in self.rows()
        }

    def coco(self, *boxes: tuple[str, str, int]) -> None:
        """Write c.json with boxes of these images, classes and widths."""
        names = ("both", "one", "empty")
        images = [{"id": place, "file_name": f"{name}.png"} for place, name in enumerate(names)]
        marks = [
            {
                "id": place,
                "image_id": names.index(name),
                "category_id": ("knife", "gun").index(kind),
                "bbox": [20 * place, 10, width, 8],
            }
            for place, (name, kind, width) in enumerate(boxes)
        ]
        kinds = [{"id": 0, "name": "knife"}, {"id": 1, "name": "gun"}]
        (self.folder / "c.json").write_text(json.dumps({"images": images, "annotations": marks, "categories": kinds}))


@pytest.fixture
def bags(tmp_path: Path) -> Bags:
    return Bags(tmp_path)


IN_ALL: Said = {
    ("both", "knife"): ("knife", 1), ("both", "gun"): ("gun", 2),
    ("one", "knife"): ("none", 0), ("one", "gun"): ("gun", 1),
    ("empty", "knife"): ("none", 0), ("empty", "gun"): ("none", 0),
}  # fmt: skip


def test_a_table_names_sets(bags: Bags) -> None:
    rows = ['both.png,"knife,gun"', "one.png,gun", "empty.png,none"]
    (bags.folder / "t.csv").write_text("\n".join(["uri,label", *rows]))
    code, said = bags.run("import", "t.csv")
    assert (code, "6 labels added to check xray" in said) == (0, True), said
    assert bags.said() == {place: (label, None) for place, (label, _) in IN_ALL.items()}
    assert "nothing was written" in bags.run("import", "t.csv")[1]


def test_a_class_without_a_box_of_its_own_is_there_all_the_same(bags: Bags) -> None:
    (bags.folder / "t.csv").write_text('uri,label,boxes\nboth.png,"knife,gun",gun 10 10 20 20\n')
    code, said = bags.run("import", "t.csv")
    assert code == 0, said
    assert bags.said() == {("both", "knife"): ("knife", None), ("both", "gun"): ("gun", 1)}


def test_yolo_gives_the_classes_of_the_boxes(bags: Bags) -> None:
    (bags.folder / "classes.txt").write_text("Messer\ngun\n")
    for name, boxes in {"both": [0, 1, 1], "one": [1], "empty": []}.items():
        lines = [f"{kind} 0.{place + 2} 0.5 0.1 0.2" for place, kind in enumerate(boxes)]
        (bags.folder / f"{name}.txt").write_text("\n".join(lines))
    code, said = bags.run("import", ".", "--format", "yolo", "--map", "Messer=knife")
    assert code == 0, said
    assert bags.said() == IN_ALL


def test_coco_gives_the_classes_of_the_boxes(bags: Bags) -> None:
    bags.coco(("both", "knife", 8), ("both", "gun", 8), ("both", "gun", 8), ("one", "gun", 8))
    code, said = bags.run("import", "c.json")
    assert code == 0, said
    assert bags.said() == IN_ALL


def test_voc_gives_the_classes_of_the_boxes(bags: Bags) -> None:
    (bags.folder / "voc").mkdir()
    for name, kinds in {"both": ["knife", "gun", "gun"], "one": ["gun"], "empty": []}.items():
        objects = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{9 * n + 1}</xmin><ymin>5</ymin><xmax>{9 * n + 8}</xmax>"
            "<ymax>20</ymax></bndbox></object>"
            for n, kind in enumerate(kinds)
        )
        text = f"<annotation><filename>{name}.png</filename>{objects}</annotation>"
        (bags.folder / "voc" / f"{name}.xml").write_text(text)
    code, said = bags.run("import", "voc", "--format", "voc", "--root", ".")
    assert code == 0, said
    assert bags.said() == IN_ALL


def test_by_hand_a_set_is_one_command(bags: Bags) -> None:
    code, said = bags.run("add", "both.png", "gun,knife", "--box", "gun 10 10 20 20", "--box", "gun 30 10 40 20")
    assert (code, "labels 1, 2: gun,knife" in said) == (0, True), said
    assert bags.run("add", "empty.png", "none")[0] == 0
    assert bags.said() == {
        ("both", "knife"): ("knife", None), ("both", "gun"): ("gun", 2),
        ("empty", "knife"): ("none", None), ("empty", "gun"): ("none", None),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "both.png", "gun,saw"), "'saw' is not a class of check xray (knife, gun, none)"),
        (("add", "both.png", "gun", "--box", "1 2 3 4"), "write the class before the numbers"),
        (("add", "both.png", "gun", "--box", "saw 1 2 3 4"), "'saw' is not a class"),
        (("import", "t.csv"), "'saw' is not a label of check xray (knife, gun, none)"),
        (("import", "t.csv", "--empty", "none"), "--empty is not for a check of kind multi"),
        (("import", "t.csv", "--map", "saw=axe"), "'axe' is not a class of check xray"),
    ],
)
def test_what_is_no_class_is_refused_and_nothing_is_written(bags: Bags, arguments: tuple[str, ...], words: str) -> None:
    (bags.folder / "t.csv").write_text('uri,label\none.png,gun\nboth.png,"gun,saw"\n')
    code, said = bags.run(*arguments)
    assert (code, said.count("\n")) == (22, 1), said
    assert words in said
    assert bags.said() == {}


def test_an_image_in_another_split_refuses_all_classes(bags: Bags) -> None:
    assert bags.run("add", "one.png", "gun")[0] == 0
    (own,) = {row["split"] for row in bags.rows()}
    before, other = bags.said(), "golden" if own != "golden" else "train"
    (bags.folder / "t.csv").write_text('uri,label\none.png,"knife,gun"\nboth.png,gun\n')
    code, said = bags.run("import", "t.csv", "--split", other)
    assert (code, "1 of 2 images" in said) == (22, True), said
    assert bags.said() == before
    code, said = bags.run("import", "t.csv", "--split", other, "--where-possible")
    assert code == 0, said
    assert bags.said()["both", "gun"] == ("gun", None)


def test_a_class_that_is_refused_at_the_last_moment_takes_the_others_with_it(bags: Bags) -> None:
    """Another process put the image into a split of its own after the summary was made."""
    (bags.folder / "t.csv").write_text("uri,label\none.png,gun\n")
    settings = load_settings(data_dir=bags.folder)
    with ledger(settings) as engine:
        knife, gun = prepare_file(engine, settings, bags.folder / "t.csv", str(bags.folder / "xray.toml"), who="ann")
        with pytest.raises(BadLabels, match="already in another split"):
            write(engine, [replace(knife, split="train"), replace(gun, split="golden")])
    assert bags.said() == {}


def test_a_box_that_marks_nothing_leaves_its_class_open_and_no_other(bags: Bags) -> None:
    """Whether there is a knife is not known; that there is a gun is."""
    bags.coco(("both", "knife", 0), ("both", "gun", 8), ("one", "gun", 8))
    code, said = bags.run("import", "c.json")
    assert (code, "left out" in said) == (0, True), said
    found = bags.said()
    assert ("both", "knife") not in found
    assert found["both", "gun"] == ("gun", 1)
    assert found["one", "knife"] == ("none", 0)
