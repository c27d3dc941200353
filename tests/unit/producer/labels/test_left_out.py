"""What a file does not say is no label: parts that are in doubt are left out and named, and the rest is imported."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scanfleet.checks.check import load_check
from scanfleet.db.labels.clusters import SeenImage
from scanfleet.errors import BadLabels
from scanfleet.producer.labels.fetching import Fetched
from scanfleet.producer.labels.formats.detect import read_labels
from scanfleet.producer.labels.formats.entries import Options, Problems
from scanfleet.producer.labels.image_refs import Root
from scanfleet.producer.labels.label_names import LabelMapping, map_labels
from scanfleet.producer.labels.preparing import prepare

BAGGAGE = load_check("baggage")
Box = tuple[Any, ...]
Labels = dict[str, tuple[str, list[Box] | None]]
BOX = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}


def imported(
    path: Path, *, size: tuple[int, int] = (200, 100), orientation: int = 1, **options: Any
) -> tuple[Labels, list[str]]:
    """Return by name the label and boxes of each image, all of one size, and what was left out."""
    folder = path if path.is_dir() else path.parent
    problems = Problems(path.name, strict=False)
    entries = read_labels(path, form="auto", options=Options(images=folder, **options), problems=problems)
    mapping = LabelMapping(check=BAGGAGE, mapping={}, empty=None)
    filled = [entry for entry in entries if not entry.blank]
    labels = map_labels(filled, mapping, who="me", root=Root(folder=str(folder)), problems=problems)
    fetched = Fetched()
    for uri in {one.image.uri for one in labels}:
        width, height = size
        fetched.seen[uri] = SeenImage(
            content_sha256=uri, uri=uri, root=None, etag=None, width=width, height=height, phash="0" * 16
        )
        fetched.orientations[uri] = orientation
    prepared = prepare(labels, fetched, BAGGAGE, problems, origin="import")
    found: Labels = {}
    for one in prepared.labels:
        boxes = None if one.boxes is None else [tuple(box.values())[:5] for box in one.boxes]
        found[Path(one.uri).name] = (one.label, boxes)
    return found, list(prepared.left_out)


def put(path: Path, body: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body if isinstance(body, str) else json.dumps(body))
    return path


# Label Studio


def region(kind: str, label: str | None, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    frame = {"original_width": 200, "original_height": 100, "image_rotation": 0}
    whole = value | ({} if label is None else {kind: [label]})
    return {"id": "r1", "type": kind, "from_name": "label", "value": whole} | frame | more


def choice(word: str, **more: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "choices", "from_name": "verdict", "value": {"choices": [word]}} | more


def task(*results: dict[str, Any], image: str = "a.png") -> dict[str, Any]:
    return {"data": {"image": image}, "annotations": [{"completed_by": 1, "result": list(results)}]}


POINTS = {"points": [[10, 10], [30, 15], [20, 40]], "closed": True}
RELATION = {"type": "relation", "from_id": "r1", "to_id": "r2", "direction": "right"}
WHOLE = ("gun", 20.0, 10.0, 60.0, 30.0)
SQUARE = BOX | {"width": 10, "height": 20}  # of 20 x 20 pixels


def box(*sides: float, label: str = "gun") -> Box:
    return (*sides, label)


@pytest.mark.parametrize(
    ("results", "label", "boxes"),
    [
        ([region("rectanglelabels", "gun", BOX), RELATION], "gun", [box(20, 10, 60, 30)]),
        ([region("rectanglelabels", "gun", BOX | {"rotation": 360})], "gun", [box(20, 10, 60, 30)]),
        (
            [region("rectanglelabels", "gun", BOX | {"rotation": 360}, original_width=None)],
            "gun",
            [box(20, 10, 60, 30)],
        ),
        ([region("rectanglelabels", "gun", SQUARE | {"rotation": 90})], "gun", [box(0, 10, 20, 30)]),
        (
            [region("rectanglelabels", "gun", SQUARE | {"x": 50, "y": 50, "rotation": 45})],
            "gun",
            [box(85.86, 50, 114.14, 78.28)],
        ),
        ([region("polygonlabels", "gun", POINTS)], "gun", [box(20, 10, 60, 40)]),
        (
            [region("ellipselabels", "gun", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 40, "rotation": 90})],
            "gun",
            [box(60, 30, 140, 70)],
        ),
        ([region("brushlabels", "gun", {"format": "rle", "rle": [1, 2]})], "gun", None),
        ([region("keypointlabels", "gun", {"x": 1, "y": 2, "width": 0.5})], "gun", None),
        ([region("rectangle", None, BOX), region("labels", "gun", BOX)], "gun", [box(20, 10, 60, 30)]),
        ([region("rectanglelabels", "gun", BOX), choice("bottle", id="r1")], "gun", [box(20, 10, 60, 30)]),
        ([region("rectanglelabels", "gun", BOX), choice("none", parentID="r1")], "gun", [box(20, 10, 60, 30)]),
        ([choice("none")], "none", None),
        ([], "none", []),
    ],
)
def test_regions_of_any_shape_are_labels_of_label_studio(
    tmp_path: Path, results: list[dict[str, Any]], label: str, boxes: list[Box] | None
) -> None:
    found, left_out = imported(put(tmp_path / "l.json", [task(*results)]))
    assert found == {"a.png": (label, boxes)}
    assert left_out == []


@pytest.mark.parametrize(
    "results",
    [
        [region("rectangle", None, BOX)],
        [region("rectangle", None, BOX), choice("none", id="r1")],
        [region("rectangle", None, BOX), choice("none")],
        [region("rectangle", None, BOX), region("rectanglelabels", "bottle", BOX, id="r2")],
        [region("rectanglelabels", "gun", BOX | {"height": 0})],
        [region("rectanglelabels", "gun", BOX, image_rotation=90)],
        [region("rectanglelabels", "gun", BOX | {"rotation": 5}, original_width=None)],
        [region("polygonlabels", "gun", POINTS), choice("none")],
        [region("brushlabels", "gun", {"rle": [1]}), choice("none")],
        [region("rectanglelabels", "bottle", BOX), region("rectanglelabels", "gun", BOX | {"width": 0}, id="r2")],
        [{"id": "t", "type": "textarea", "from_name": "note", "value": {"text": ["blurred"]}}],
        [{"id": "t", "type": "textarea", "from_name": "note"}],
    ],
)
def test_a_task_in_doubt_is_left_out_and_named(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    if any("bottle" in str(result) for result in results):  # the label of a gun comes before that of a bottle
        assert BAGGAGE.labels.index("gun") < BAGGAGE.labels.index("bottle")
    path = put(tmp_path / "l.json", [task(*results), task(image="b.png")])
    found, left_out = imported(path)
    assert found == {"b.png": ("none", [])}
    assert any("task 1" in line for line in left_out)


def test_of_several_controls_one_must_be_named(tmp_path: Path) -> None:
    path = put(tmp_path / "l.json", [task(choice("gun"), choice("none", id="c2", from_name="quality"))])
    with pytest.raises(BadLabels, match=r"quality, verdict.*--label-control"):
        imported(path)
    assert imported(path, control="verdict")[0] == {"a.png": ("gun", None)}
    with pytest.raises(BadLabels, match="'gone'"):
        imported(path, control="gone")


def test_two_annotations_of_one_annotator_that_differ_count_for_nothing(tmp_path: Path) -> None:
    body = task(choice("gun"))
    body["annotations"] += task(choice("none"))["annotations"]
    found, left_out = imported(put(tmp_path / "l.json", [body, task(choice("gun"), image="b.png")]))
    assert found == {"b.png": ("gun", None)}
    assert "annotator 1" in left_out[0]


# COCO


def coco(*annotations: dict[str, Any], names: tuple[str, ...] = ("a.png",), **image: Any) -> dict[str, Any]:
    images = [{"id": number, "file_name": name} | image for number, name in enumerate(names, start=1)]
    body: dict[str, Any] = {"images": images, "categories": [{"id": 7, "name": "gun"}, {"id": 8, "name": "bottle"}]}
    body["annotations"] = [{"image_id": 1, "category_id": 7} | one for one in annotations]
    return body


ONE = {"bbox": [10, 10, 20, 20]}


@pytest.mark.parametrize(
    ("body", "boxes"),
    [
        (coco(ONE, {"bbox": [10, 10, 20, 0.0]}), [box(10, 10, 30, 30)]),
        (coco(ONE, {"bbox": [10, 10, float("nan"), 5]}), [box(10, 10, 30, 30)]),
        (coco(ONE | {"area": float("nan")}), [box(10, 10, 30, 30)]),
        (coco({"segmentation": [[10, 10, 30, 10, 20, 30]]}), [box(10, 10, 30, 30)]),
        (coco({"segmentation": {"counts": [1], "size": [1, 1]}}), None),
        (
            coco(ONE, {"image_id": 2, "bbox": [60, 10, 20, 20]}, names=("a.png", "a.png")),
            [box(10, 10, 30, 30), box(60, 10, 80, 30)],
        ),
        (coco(ONE, width=400, height=200), [box(5, 5, 15, 15)]),
        (coco(ONE, width=0, height=0), [box(10, 10, 30, 30)]),
    ],
)
def test_an_odd_part_of_coco_does_not_shut_out_the_rest(
    tmp_path: Path, body: dict[str, Any], boxes: list[Box] | None
) -> None:
    assert imported(put(tmp_path / "c.json", body))[0] == {"a.png": ("gun", boxes)}


@pytest.mark.parametrize(
    "body",
    [
        coco({"bbox": [10, 10, 20, 0.0]}, names=("a.png", "b.png")),
        coco({"bbox": [10, 10]}, names=("a.png", "b.png")),
        coco({"bbox": [500, 10, 20, 20]}, names=("a.png", "b.png")),
        coco({"category_id": 9, "bbox": [1, 2, 3, 4]}, names=("a.png", "b.png")),
        coco(ONE, names=("a.png", "b.png")) | {"images": [{"id": 1, "file_name": "a.png"}] * 2 + [
            {"id": 2, "file_name": "b.png"}]},
        coco(names=("a.png", "b.png")) | {"images": [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 200}, {"id": 2, "file_name": "b.png"}]},
    ],
)  # fmt: skip
def test_an_image_whose_label_is_in_doubt_does_not_become_none(tmp_path: Path, body: dict[str, Any]) -> None:
    found, left_out = imported(put(tmp_path / "c.json", body))
    assert found == {"b.png": ("none", [])}
    assert left_out


@pytest.mark.parametrize("image_id", [5, None, "1", 1.5])
def test_annotations_of_images_that_are_not_listed_may_be_those_of_another(tmp_path: Path, image_id: Any) -> None:
    body = coco(ONE, ONE | {"image_id": image_id}, names=("a.png", "b.png"))
    found, left_out = imported(put(tmp_path / "c.json", body))
    assert found == {"a.png": ("gun", [box(10, 10, 30, 30)])}
    assert [line.split(":")[0] for line in left_out] == ["annotations[1]", "images[1]"]


def test_a_file_without_the_list_of_annotations_labels_nothing(tmp_path: Path) -> None:
    body = coco(names=("a.png", "b.png"))
    del body["annotations"]
    with pytest.raises(BadLabels, match=r"the file: .*annotations"):
        imported(put(tmp_path / "c.json", body))
    body["images"][0]["label"] = "gun"
    assert imported(put(tmp_path / "c.json", body))[0] == {"a.png": ("gun", None)}


@pytest.mark.parametrize(
    ("orientation", "wanted"),
    [(6, box(70, 10, 90, 30)), (8, box(10, 170, 30, 190)), (5, box(10, 10, 30, 30)), (7, box(70, 170, 90, 190))],
)
def test_a_stored_size_is_turned_as_exif_says(tmp_path: Path, orientation: int, wanted: Box) -> None:
    path = put(tmp_path / "c.json", coco(ONE, width=200, height=100))
    assert imported(path, size=(100, 200), orientation=orientation)[0] == {"a.png": ("gun", [wanted])}
    with pytest.raises(BadLabels, match=r"200 x 100 .* 100 x 200"):
        imported(path, size=(100, 200), orientation=3)


# Pascal VOC


def voc(name: str, *, sizes: tuple[int, int] = (200, 100), head: str = "", label: str = "gun") -> str:
    size = f"<size><width>{sizes[0]}</width><height>{sizes[1]}</height></size>"
    sides = "<xmin>10</xmin><ymin>10</ymin><xmax>80</xmax><ymax>40</ymax>"
    thing = f"<object><name>{label}</name><bndbox>{sides}</bndbox></object>"
    return f"{head}<annotation><filename>{name}</filename>{size}{thing}</annotation>"


def test_sizes_of_voc(tmp_path: Path) -> None:
    put(tmp_path / "a.xml", voc("a.png", sizes=(100, 200)))
    put(tmp_path / "b.xml", voc("b.png", sizes=(0, 0)))
    found, left_out = imported(tmp_path)
    assert found == {"b.png": ("gun", [box(9, 9, 80, 40)])}
    assert "a.xml" in left_out[0]


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("ISO-8859-1", "latin-1"),
        ("UTF-16", "utf-16"),
        ("utf-8", "utf-8-sig"),
        ("utf-16", "utf-8"),
        ("cp1252", "cp1252"),
    ],
)
def test_xml_tells_its_encoding(tmp_path: Path, declared: str, encoding: str) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>'
    (tmp_path / "é.xml").write_bytes(voc("é.png", head=head).encode(encoding))
    assert list(imported(tmp_path)[0]) == ["é.png"]


def test_objects_in_another_place_of_voc_are_not_nothing(tmp_path: Path) -> None:
    body = voc("a.png")
    put(tmp_path / "a.xml", body.replace("<object>", "<objects><object>").replace("</object>", "</object></objects>"))
    with pytest.raises(BadLabels, match=r"a\.xml"):
        imported(tmp_path)


def test_objects_of_voc_in_two_places_leave_the_image_out(tmp_path: Path) -> None:
    inside = "<objects><object><name>gun</name></object></objects></object>"
    put(tmp_path / "a.xml", voc("a.png", label="knife").replace("</object>", inside))
    with pytest.raises(BadLabels, match="not directly below"):
        imported(tmp_path)


@pytest.mark.parametrize("images", ["JPEGImages", ""])
def test_names_of_voc_may_begin_with_their_folders(tmp_path: Path, images: str) -> None:
    put(tmp_path / images / "train/a.png", "")
    put(tmp_path / images / "b.png", "")
    put(tmp_path / "Annotations/train/a.xml", voc("train/a.png"))
    put(tmp_path / "Annotations/train/b.xml", voc("b.png"))  # of another folder
    entries = read_labels(tmp_path, form="auto", options=Options(images=tmp_path))
    assert entries[0].uri == str(Path(images) / "train/a.png")
    assert entries[1].uri != str(Path(images) / "b.png")


def test_renamed_voc_files_do_not_label_another_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"{name}.png", "")
        put(tmp_path / f"{name}.xml", voc("old.png", label="gun" if name == "a" else "knife"))
    assert {name: label for name, (label, _) in imported(tmp_path)[0].items()} == {"a.png": "gun", "b.png": "knife"}
    put(tmp_path / "old.png", "")
    with pytest.raises(BadLabels, match="no label is left"):
        imported(tmp_path)


def test_several_voc_files_about_one_image_count_for_nothing(tmp_path: Path) -> None:
    for name, image in (("a", "old.png"), ("b", "old.png"), ("c", "c.png")):
        put(tmp_path / f"{name}.xml", voc(image))
    found, left_out = imported(tmp_path)
    assert list(found) == ["c.png"]
    assert len(left_out) == 2


# YOLO


def yolo(folder: Path, row: str, *, images: tuple[str, ...] = ("a.png",), **lists: str) -> Path:
    for name in images:
        put(folder / "images" / name, "")
    put(folder / "labels/a.txt", row)
    for name, text in (lists or {"classes.txt": "knife\ngun\n"}).items():
        (folder / name).write_bytes(text.encode())
    return folder


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
BOMB += "names: {? *a29 : gun}\n"
MIDDLE = box(80, 40, 120, 60)


@pytest.mark.parametrize(
    "text",
    [
        "path: .\r\nnames:\r\n  0: knife\r\n  1: gun\r\n",
        "names: {0: knife, 1: gun}\n",
        "\ufeffnames: ['knife, long', gun]\nnc: 2\n",
        "names: [  # two\n  'knife # short',\n  gun]\n",
        "classes: &all [knife, gun]\nnames: *all\n",
        "names:\n  1: gun\n  0: 'no'\n",
    ],
)
def test_data_yaml_is_yaml(tmp_path: Path, text: str) -> None:
    folder = yolo(tmp_path, "1 .5 .5 .2 .2\r\n", **{"data.yaml": text})
    assert imported(folder) == ({"a.png": ("gun", [MIDDLE])}, [])


@pytest.mark.parametrize(
    "lists",
    [
        {"data.yaml": "names: [knife\n"},
        {"data.yaml": "names: obj.names\n"},
        {"data.yaml": "names: [knife, gun]\nnc: 3\n"},
        {"data.yaml": "names: [knife, gun]\nnames: [gun, knife]\n"},
        {"data.yaml": "names: {0: knife, 0: gun}\n"},
        {"data.yaml": "names: [knife, [gun]]\n"},
        {"data.yaml": "names: [knife, '']\n"},
        {"data.yaml": "names: [knife, gun]\n" + "#" * (1 << 20)},
        {"data.yaml": "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nnames: [*c,*c]\n"},
        {"data.yaml": BOMB},
        {"data.yaml": BOMB.replace("names: {", "{")},
        {"data.yaml": "names: [knife, gun]\n", "classes.txt": "gun\nknife\n"},
        {"classes.txt": "knife\n\ngun\n"},
    ],
)
def test_classes_that_are_not_clear_refuse_the_folder(tmp_path: Path, lists: dict[str, str]) -> None:
    with pytest.raises(BadLabels, match="the folder"):
        imported(yolo(tmp_path, "1 .5 .5 .2 .2\n", **lists))


def test_a_number_sign_begins_a_name_in_classes_txt(tmp_path: Path) -> None:
    assert list(imported(yolo(tmp_path, "1 .5 .5 .2 .2\n", **{"classes.txt": "#old\rgun\r"}))[0]) == ["a.png"]


@pytest.mark.parametrize(
    ("row", "boxes"),
    [
        ("1 .5 .5 1.0000001 .2", [box(0, 40, 200, 60)]),
        ("1 .4 .4 .6 .4 .5 .6", [MIDDLE]),
        ("1 .4 .4 .6 .4 .6 .6 .4 .6", [MIDDLE]),
        ("1 .5 .5 .2 .2 .93", [MIDDLE]),
        ("1 .5 .5 .2 .2\n1 .5 .5 0 .2", [MIDDLE]),
    ],
)
def test_rows_of_yolo(tmp_path: Path, row: str, boxes: list[Box]) -> None:
    folder = yolo(tmp_path, row)
    for name in ("README.dataset.txt", "README.roboflow.txt", "train.txt"):
        put(folder / name, "Export of today\n")
    found, left_out = imported(folder)
    assert found["a.png"] == ("gun", boxes)
    assert len(left_out) == row.count("\n")


def test_key_points_of_yolo_follow_the_box(tmp_path: Path) -> None:
    lists = {"data.yaml": "names: [knife, gun]\nkpt_shape: [1, 2]\n"}
    assert imported(yolo(tmp_path, "1 .5 .5 .2 .2 .9 .9\n", **lists))[0] == {"a.png": ("gun", [MIDDLE])}


@pytest.mark.parametrize("images", [("a.png", "a.jpg"), ("a.jpg", "a.JPG"), ()])
def test_a_file_of_labels_belongs_to_one_image(tmp_path: Path, images: tuple[str, ...]) -> None:
    with pytest.raises(BadLabels, match=r"labels/a\.txt"):
        imported(yolo(tmp_path, "1 .5 .5 .2 .2\n", images=images))


TRACK = "1 .5 .5 .2 .2 .9 1"  # a box, its confidence, and the number of its track
POSE = "1 .5 .5 .2 .2 .45 .45 2 .55 .55 2"  # a box and two key points, without a kpt_shape


@pytest.mark.parametrize(
    "row", ["7 .5 .5 .2 .2", "gun .5 .5 .2 .2", "1 .5 .5 0 .2", "1 50 50 20 20", "1 .5", TRACK, POSE]
)
def test_a_row_that_cannot_be_used_is_not_nothing(tmp_path: Path, row: str) -> None:
    with pytest.raises(BadLabels, match=r"no label is left: .*labels/a\.txt"):
        imported(yolo(tmp_path, row))


# tables


@pytest.mark.parametrize(
    ("rows", "label", "boxes"),
    [
        ("a.png,gun,\n,,\n , ,\n", "gun", None),
        ("a.png,gun,\r,,\r", "gun", None),
        ("a.png,gun,,,\n", "gun", None),
        ("a.png,gun,gun 1 2 3 4\na.png,gun,gun 5 6 7 8\n", "gun", [box(1, 2, 3, 4), box(5, 6, 7, 8)]),
        ("a.png,gun,gun 1 2 3 4; gun 9 9 9 9\n", "gun", [box(1, 2, 3, 4)]),
        ("a.png,gun,gun 9 9 9 9\n", "gun", None),
    ],
)
def test_tables(tmp_path: Path, rows: str, label: str, boxes: list[Box] | None) -> None:
    (tmp_path / "t.csv").write_bytes(f"\ufeffuri,label,boxes\n{rows}".encode())
    found, left_out = imported(tmp_path / "t.csv")
    assert found == {"a.png": (label, boxes)}
    assert len(left_out) == rows.count("gun 9 9 9 9")


@pytest.mark.parametrize(
    "rows",
    [
        "a.png,none,gun 10 10 20 20",
        "a.png,none,gun 10 10 20 20\na.png,none,",
        "a.png,none,gun 10 10 10 20",
        "a.png,none,gun 10 10 20",
        "a.png,none,gun 10 10 20\na.png,none,",
        "a.png,none",
        "a.png,none,,surplus",
        "a.png,none,,surplus\na.png,none,",
        "a.png,none\na.png,none,",
        "a.png,none,\na.png,gun,",
    ],
)
def test_a_row_in_doubt_is_left_out(tmp_path: Path, rows: str) -> None:
    found, left_out = imported(put(tmp_path / "t.csv", f"uri,label,boxes\n{rows}\nb.png,gun,\n"))
    assert found == {"b.png": ("gun", None)}
    assert any("line 2" in line or "line 3" in line for line in left_out)


def test_columns_have_the_names_that_options_give(tmp_path: Path) -> None:
    path = put(tmp_path / "t.csv", "file,truth,uri\na.png,gun,x\n")
    assert list(imported(path, uri="file", label="truth")[0]) == ["a.png"]
    with pytest.raises(BadLabels, match="--uri-column"):
        imported(path, uri="name", label="truth")
    lines = put(tmp_path / "t.jsonl", '{"file": "a.png", "label": "gun", "loss": NaN}\n{broken\n')
    found, left_out = imported(lines, uri="file")
    assert list(found) == ["a.png"]
    assert "line 2" in left_out[0]


@pytest.mark.parametrize("columns", [{"decision", "margin", "scorer"}, {"decision", "margin", "scorer_id"}])
def test_results_are_refused_unless_a_column_is_named(tmp_path: Path, columns: set[str]) -> None:
    path = put(tmp_path / "r.jsonl", dict.fromkeys(columns, 1) | {"uri": "a.png", "label": "gun", "truth": "none"})
    with pytest.raises(BadLabels, match="--label-column"):
        imported(path)
    assert imported(path, label="truth", label_named=True)[0] == {"a.png": ("none", None)}
    assert imported(path, label_named=True)[0] == {"a.png": ("gun", None)}
    put(path, {"uri": "a.png", "label": "gun", "decision": "flag", "margin": 1, "answer": "gun"})  # labels suggest
    assert imported(path)[0] == {"a.png": ("gun", None)}


# damage


SHAPES = [("rectanglelabels", BOX), ("polygonlabels", POINTS), ("brushlabels", {"rle": [1]}), ("labels", BOX)]
ODD: list[Any] = [None, 0, -5, 1e9, "", "x", [], {}, float("nan"), True]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(form=st.sampled_from(["labelstudio", "coco", "voc", "yolo"]), seed=st.integers(0, 10**6))
def test_a_damaged_region_never_makes_an_image_harmless(form: str, seed: int) -> None:
    """Whatever one damages in a file that shows a gun, its image is a gun or has no label."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        try:
            found, _ = imported(_damaged(Path(name), form, dice))
        except BadLabels:
            return
    assert {label for label, _ in found.values()} <= {"gun"}


def _damaged(folder: Path, form: str, dice: random.Random) -> Path:
    """Write a file about one image with a gun, and damage a value of it, though not the label or list of regions."""
    if form == "labelstudio":
        kind, shape = dice.choice(SHAPES)
        body = [task(region(kind, "gun", shape), choice("bottle", id="r1"), RELATION)]
        target = body[0]["annotations"][0]["result"][0]
        _damage(dice.choice([target, target["value"]]), dice, but={"value", "id", kind})
        return put(folder / "l.json", body)
    if form == "coco":
        coco_body = coco(ONE, width=200, height=100)
        places = [coco_body["annotations"][0], coco_body["images"][0], coco_body["categories"][0]]
        _damage(dice.choice(places), dice, but={"name"})
        if dice.random() < 0.2:
            del coco_body["annotations"]
        return put(folder / "c.json", coco_body)
    odd = str(dice.choice([*ODD, "1 2", "7", "-1", "9" * 400]))
    if form == "voc":
        text = voc("a.png")
        number = dice.choice(["<xmin>10", "<ymax>40", "<width>200", "<bndbox>", "<ymin>10"])
        return put(folder / "a.xml", text.replace(number, number.split(">")[0] + ">" + odd))
    words = ["1", ".5", ".5", ".2", ".2"]
    words[dice.randrange(1, 5)] = odd
    return yolo(folder, " ".join(words[: dice.randrange(1, 6)]))


def _damage(thing: dict[str, Any], dice: random.Random, *, but: set[str]) -> None:
    key = dice.choice(sorted(set(thing) - but) or ["x"])
    if dice.random() < 0.3:
        thing.pop(key, None)
    else:
        thing[key] = dice.choice(ODD)


def test_a_name_that_cannot_be_used_leaves_its_image_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("uri,label\na.png,gun\nhttp://host/b.png,gun\n../../c.png,gun\n")
    found, left_out = imported(tmp_path / "t.csv")
    assert found == {"a.png": ("gun", None)}
    assert len(left_out) == 2


def test_label_studio_may_name_its_own_host(tmp_path: Path) -> None:
    choice = {"type": "choices", "value": {"choices": ["gun"]}, "from_name": "kind", "to_name": "image"}
    task = {
        "id": 1,
        "data": {"image": "http://studio:8080/data/local-files/?d=a.png"},
        "annotations": [{"id": 1, "completed_by": 1, "result": [choice]}],
    }
    (tmp_path / "ls.json").write_text(json.dumps([task]))
    found, left_out = imported(tmp_path / "ls.json")
    assert (found, left_out) == ({"a.png": ("gun", None)}, [])
