"""Labels that are written for another tool and read again are the same labels, with boxes within a pixel."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pytest

from scanfleet.errors import BadSource, RequestError
from scanfleet.models.pocket.scenes import overlay
from scanfleet.producer.labels.exporting import FOLDERS, FORMATS
from scanfleet.producer.labels.writing.places import below, common_root
from tests.integration.training.test_labels_import import Ledger

TURN = {"rotation": "30"}  # which importers of VOC apply to the box
LOADED = {"material": "steel", "text": "a <b> & c; d"}


def box(label: str, *sides: float, **more: Any) -> dict[str, Any]:
    return dict(zip(("x0", "y0", "x1", "y1"), sides, strict=True)) | {"label": label} | more


LABELS: dict[str, dict[str, Any]] = {
    "a/0.png": {
        "label": "gun",
        "boxes": [box("gun", 10.25, 5.5, 40.75, 33, attributes=TURN), box("bottle", 0, 0, 96, 64)],
    },
    "a/1.png": {
        "label": "knife",
        "boxes": [box("knife", 3, 4, 5, 6, attributes=LOADED)],
        "attributes": {"size": "small"},
    },
    "é b/2.png": {"label": "none", "boxes": []},
    "3.png": {"label": "none"},
    "4.png": {"label": "gun", "group": "bag 1", "note": "n\rm", "drawn": "random"},
}
WITHOUT_BOXES = {"4.png"}  # a label that no box says


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    archive = tmp_path / "archive"
    for number, name in enumerate([*LABELS, "5.png"]):
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        overlay.draw(11, number, 96, 64).image.save(archive / name)
    lines = [json.dumps({"uri": name, "who": "ann"} | one) for name, one in LABELS.items()]
    disputed = [json.dumps({"uri": "5.png", "label": label, "who": label}) for label in ("gun", "none")]
    (archive / "truth.jsonl").write_text("\n".join([*lines, *disputed]))
    return archive


@pytest.fixture
def ledger(tmp_path: Path, folder: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "data")
    ledger.run("import", folder / "truth.jsonl", "--check", "baggage")
    yield ledger
    ledger.engine.dispose()


def current(ledger: Ledger, folder: Path) -> dict[str, Any]:
    return {str(Path(one.uri).relative_to(folder)): one for one in ledger.standing("baggage")}


def sides(one: Any) -> list[tuple[Any, ...]]:
    return [(each["label"], each["x0"], each["y0"], each["x1"], each["y1"]) for each in one.boxes or ()]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_comes_back(ledger: Ledger, folder: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / "out" if form in FOLDERS else tmp_path / {"csv": "o.csv", "jsonl": "o.jsonl"}.get(form, "o.json")
    done = ledger.run("export", "--check", "baggage", "--format", form, "-o", file, "--root", folder)
    assert "left out: 1 image in conflict" in done.stderr
    again = Ledger(tmp_path / "again")
    again.run("import", file, "--check", "baggage", "--root", folder, "--who", "ann")
    before, after = current(ledger, folder), current(again, folder)
    assert after.keys() == before.keys() - (WITHOUT_BOXES if form in FOLDERS else set())
    for name, one in after.items():
        assert one.label == before[name].label
        for found, given in zip(sides(one), sides(before[name]), strict=True):
            assert found == pytest.approx(given, abs=0.02 if form != "voc" else 1)
        if form not in FOLDERS:
            kept = [(each.who, each.group, each.note, each.drawn) for each in (one, before[name])]
            assert kept[0] == kept[1]
        if form != "yolo":
            assert one.attributes == before[name].attributes
            lost = TURN if form == "voc" else {}
            both = [
                [(each.get("attributes") or {}).items() - lost.items() for each in two.boxes or ()]
                for two in (one, before[name])
            ]
            assert both[0] == both[1]
    again.engine.dispose()


@pytest.mark.parametrize("form", ["csv", "jsonl", "coco"])
def test_a_name_that_is_no_text_is_written_whole(ledger: Ledger, folder: Path, tmp_path: Path, form: str) -> None:
    name = os.fsencode(folder) + b"/\xff.png"
    shutil.copy(folder / "3.png", name)
    (folder / "more.csv").write_text(f"uri,label\nfile://{quote_from_bytes(name)},none\n")
    ledger.run("import", folder / "more.csv", "--check", "baggage")
    file = tmp_path / f"o.{'json' if form == 'coco' else form}"
    ledger.run("export", "--check", "baggage", "--format", form, "-o", file, "--root", folder)
    assert b"%FF.png" in file.read_bytes()


def test_what_boxes_cannot_say_is_counted_and_nothing_overwrites(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    export = ("export", "--check", "baggage", "--format", "yolo", "-o", tmp_path / "out")
    assert "left out: 1 image: the format has no word for it" in ledger.run(*export).stderr
    assert (tmp_path / "out/labels/3.txt").read_bytes() == b""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["classes.txt", "data.yaml", "labels"]
    with pytest.raises(RequestError, match="exists already"):
        ledger.run(*export)
    assert not list(tmp_path.glob(".out*"))
    assert "name it with -o FOLDER" in ledger.run(*export[:5]).stderr


def test_images_that_share_a_label_file_are_left_out(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("3.jpg", "3.webp"), start=20):
        overlay.draw(11, number, 96, 64).image.save(folder / name)
        ledger.run("add", folder / name, "none", "--check", "baggage", "--who", "ann")
    done = ledger.run("export", "--check", "baggage", "--format", "yolo", "-o", tmp_path / "y")
    assert "left out: 3 images: two images differ only in their suffix" in done.stderr
    assert not (tmp_path / "y/labels/3.txt").exists()
    ledger.run("export", "--check", "baggage", "--format", "voc", "-o", tmp_path / "v")
    again = Ledger(tmp_path / "again")
    again.run("import", tmp_path / "v", "--check", "baggage", "--root", folder)
    assert {"3.png", "3.jpg", "3.webp"} <= current(again, folder).keys()
    again.engine.dispose()


def test_a_label_of_images_without_boxes_may_be_chosen(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    export = ("export", "--check", "baggage", "--format", "voc", "-o", tmp_path / "v", "--empty", "gun")
    assert "left out: 2 images: the format has no word" in ledger.run(*export).stderr
    assert {path.name for path in (tmp_path / "v").rglob("*.xml")} == {"0.xml", "1.xml", "4.xml"}


def test_names_of_a_bucket_have_a_common_root() -> None:
    assert common_root(["s3://b/x/1.png", "s3://b/y/2.png"]) == "s3://b"
    assert common_root(["s3://b/x/1.png", "s3://b/x/z/2.png"]) == "s3://b/x"
    assert common_root(["/a/bc/1.png", "/a/b/2.png"]) == "/a"
    with pytest.raises(BadSource):
        common_root(["s3://b/1.png", "/a/2.png"])
    assert below("s3://b/x/1.png", "s3://b/x") == below("/x/1.png", "/x") == below("/1.png", "/") == "1.png"
    for uri in ("s3://b/xy/1.png", "s3://b/x/../1.png", "s3://c/x/1.png", "/x/1.png", "s3://b/x//1.png"):
        assert below(uri, "s3://b/x") is None
