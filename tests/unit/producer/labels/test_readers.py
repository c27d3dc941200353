"""Each format of labels: what is read, and what is said of what cannot be."""

import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scanfleet.checks.check import load_check
from scanfleet.errors import BadLabels, BadSource, SourceNotFound
from scanfleet.producer.labels.formats.detect import READERS, read_labels
from scanfleet.producer.labels.formats.entries import MAX_PROBLEMS, Entry, Options, Problems, RawBox
from scanfleet.producer.labels.image_refs import Root, image_at, root_of
from scanfleet.producer.labels.label_names import ImageLabel, LabelMapping, map_labels, parse_map
from scanfleet.producer.sources.manifest import MalformedLineError
from tests.unit.producer.labels.label_files import CVAT, detection

BAGGAGE, OVERLAY = load_check("baggage"), load_check("overlay")


def read(path: Path, form: str = "auto", **options: Any) -> list[Entry]:
    images = path if path.is_dir() else path.parent
    return read_labels(path, form=form, options=Options(**({"images": images} | options)))


def mapped(
    entries: list[Entry], folder: Path, check: Any = BAGGAGE, *, empty: str | None = None, **maps: str
) -> list[ImageLabel]:
    words = LabelMapping(check=check, mapping=maps, empty=empty)
    return map_labels(entries, words, who="me", root=Root(folder=str(folder)), problems=Problems("f"))


def write(path: Path, body: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body if isinstance(body, str) else json.dumps(body))
    return path


def sides(box: RawBox) -> tuple[float, ...]:
    return (box.x0, box.y0, box.x1, box.y1)


# tables


def test_csv_as_the_generator_writes_it(tmp_path: Path) -> None:
    boxes = "overlay 1 2 30 40; natural 5 6 7 8"
    rows = (
        "uri,truth,style,boxes,who,bag,note,drawn",
        f"a.jpg,overlay,flat,{boxes},ann,b1,n,random",
        "b.jpg,none,,,,,,",
    )
    table = "\n".join(rows)
    one, two = read(write(tmp_path / "m.csv", table), label="truth", group="bag")
    assert (one.where, one.uri, one.label, one.who, one.group, one.note, one.drawn) == (
        "line 2", "a.jpg", "overlay", "ann", "b1", "n", "random",
    )  # fmt: skip
    assert [(box.label, sides(box)) for box in one.boxes or ()] == [
        ("overlay", (1, 2, 30, 40)),
        ("natural", (5, 6, 7, 8)),
    ]
    assert (two.label, two.boxes, two.who, two.group) == ("none", None, None, None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "m.csv is empty: there is no label in it"),
        ("\ufeff \r\n\n", "m.csv is empty"),
        ("name;label\na.jpg;none\n", "line 1: no column 'uri' .columns: name;label"),
        ("name,label;x\na.jpg,none\n", "no column 'uri' .*name, label;x.*--uri-column; nothing"),
    ],
)
def test_tables_that_are_empty_or_without_columns_are_called_so(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(BadLabels, match=words):
        read(write(tmp_path / "m.csv", body))


def test_jsonl_takes_boxes_as_objects_and_as_words(tmp_path: Path) -> None:
    box = {"x0": 1, "y0": 2.5, "x1": 3, "y1": 4, "label": "a b"}
    lines = [{"uri": "a", "label": "x", "boxes": [box]}, {"uri": "b", "label": "x", "boxes": "a b 1 2.5 3 4"}]
    one, two = read(write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, lines))))
    assert one.boxes == two.boxes == (RawBox(x0=1, y0=2.5, x1=3, y1=4, label="a b"),)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (",x,", "line 2: uri is missing"),
        ("a.jpg,x,knife 1 2 3", "is not `label x0 y0 x1 y1`"),
        ("a.jpg,x,knife 1 2 3 nan", "y1 is nan"),
        ("a.jpg,x,knife 1 2 3 1e999", "y1 is inf"),
        ("a.jpg,x,knife 9 2 3 4", "has no area"),
        ('a.jpg,x,"[{""x0"": 1}]"', "a box without y0, x1, y1"),
        ("a.jpg,x,[", "boxes: not JSON"),
        ("a.jpg,x", "2 fields where the header has 3"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(BadLabels, match="nothing was written") as found:
        read(write(tmp_path / "m.csv", f"uri,label,boxes\n{row}\n"))
    assert words in str(found.value)
    assert "m.csv: line 2" in str(found.value)


def test_many_problems_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    with pytest.raises(BadLabels, match=r"12 problems: line 2: uri .*; line 3.*; and 7 more"):
        read(write(tmp_path / "m.csv", "uri,label\n" + ",gun\n" * 12))
    with pytest.raises(BadLabels, match=f"{MAX_PROBLEMS} problems"):
        read(write(tmp_path / "m.csv", "uri,label\n" + ",gun\n" * 3000))


def test_rows_that_nobody_filled_in_are_blank(tmp_path: Path) -> None:
    entries = read(write(tmp_path / "m.csv", "uri,label,drawn\na.jpg,,random\nb.jpg,gun,random\n"))
    assert [(entry.uri, entry.blank) for entry in entries] == [("a.jpg", True), ("b.jpg", False)]
    with pytest.raises(BadLabels, match=r"no label found .*csv"):
        read(write(tmp_path / "m.csv", "uri,label\na.jpg,\n"))
    with pytest.raises(BadLabels, match="line 2: label is missing"):
        read(write(tmp_path / "m.jsonl", '{"uri": "a.jpg", "label": "gun"}\n{"uri": "b.jpg"}\n'))


def test_missing_columns_are_named_with_their_option(tmp_path: Path) -> None:
    table = write(tmp_path / "m.csv", "uri,truth\na,b\n")
    with pytest.raises(BadLabels, match="--label-column"):
        read(table)
    with pytest.raises(BadLabels, match="--group-column"):
        read(table, label="truth", group="bag")


# COCO


def coco(**more: Any) -> dict[str, Any]:
    body = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 5, 20.5, 10]},
            {"id": 2, "image_id": 1, "category_id": 9, "bbox": [0, 0, 5, 5]},
        ],
        "categories": [{"id": 7, "name": "bottle"}, {"id": 9, "name": "knife"}],
    }
    return body | more


def test_coco_boxes_and_images_without_any(tmp_path: Path) -> None:
    one, two = mapped(read(write(tmp_path / "c.json", coco())), tmp_path)
    assert (one.label, one.mixed, one.where) == ("knife", True, "images[0]")  # first in the order of the check
    assert [sides(box) for box in one.boxes or ()] == [(10, 5, 30.5, 15), (0, 0, 5, 5)]
    assert (two.label, two.boxes, two.mixed) == ("none", (), False)


def test_nothing_found_needs_a_word_where_several_labels_could_mean_it(tmp_path: Path) -> None:
    body = coco(annotations=[], categories=[])
    entries = read(write(tmp_path / "c.json", body))
    with pytest.raises(BadLabels, match="--empty LABEL"):
        mapped(entries, tmp_path, OVERLAY)
    assert [one.label for one in mapped(entries, tmp_path, OVERLAY, empty="natural")] == ["natural", "natural"]
    with pytest.raises(BadLabels, match="'sky' is not a label of check overlay"):
        mapped(entries, tmp_path, OVERLAY, empty="sky")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"images": 3}, "not a COCO file"),
        (coco(annotations=[{"image_id": 3, "category_id": 7}]), "annotations[0]: image_id 3"),
        (coco(annotations=[{"image_id": 1, "category_id": 8}]), "annotations[0]: category_id 8"),
        (coco(annotations=[{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3]}]), "not a list of four numbers"),
        (coco(annotations=[{"image_id": 1, "category_id": 7, "bbox": [1, 2, -3, 4]}]), "has no area"),
        (coco(images=[{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]), "images[1]: id 1 occurs twice"),
        (coco(images=[{"id": 1}, {"id": 2, "file_name": "b"}]), "images[0]: file_name is missing"),
        (coco(categories=[{"id": "7"}]), "categories[0]: `id`"),
        (coco(categories={}), "`categories` is not a list"),
    ],
)
def test_problems_of_coco(tmp_path: Path, body: Any, words: str) -> None:
    with pytest.raises(BadLabels) as found:
        read(write(tmp_path / "c.json", body), "coco")
    assert words in str(found.value)


# YOLO


def yolo(folder: Path, files: dict[str, str], names: str = "knife\ngun\n\n") -> Path:
    for name, body in files.items():
        write(folder / "labels" / f"{name}.txt", body)
        write(folder / "images" / f"{name}.jpg", "")
    write(folder / "classes.txt", names)
    return folder


def test_yolo_shares_and_empty_files(tmp_path: Path) -> None:
    entries = read(yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n", "sub/b": "\n"}))
    one, two = mapped(entries, tmp_path)
    assert (one.where, one.label, Path(one.image.uri).relative_to(tmp_path)) == (
        "labels/a.txt",
        "gun",
        Path("images/a.jpg"),
    )
    assert [(box.unit, sides(box)) for box in one.boxes or ()] == [("share", (0.375, 0.25, 0.625, 0.75))]
    assert (two.label, Path(two.image.uri).name) == ("none", "b.jpg")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 .5 .5 .1 .1", "class 2 is not in the list of 2 classes"),
        ("0 .5 .5 .1", "not `class cx cy width height`"),
        ("0 50 50 10 10", "are not shares"),
        ("0 .5 .5 nan .1", "is nan"),
        ("-1 .5 .5 .1 .1", "not `class"),
        ("9999999999999 .5 .5 .1 .1", "is not in the list"),
    ],
)
def test_problems_of_yolo(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(BadLabels) as found:
        read(yolo(tmp_path, {"a": f"0 .5 .5 .1 .1\n{line}\n"}))
    assert f"labels/a.txt, line 2: {words}" in str(found.value) or words in str(found.value)


def test_yolo_needs_its_classes_and_its_images(tmp_path: Path) -> None:
    with pytest.raises(BadLabels, match="no list of classes"):
        read(write(tmp_path / "none" / "a.txt", "").parent, "yolo")
    folder = yolo(tmp_path / "y", {"a": ""})
    (folder / "images/a.jpg").unlink()
    with pytest.raises(BadLabels, match=r"no image found for it \(looked for images/a and a and labels/a"):
        read(folder)
    with pytest.raises(BadLabels, match="--root must be a folder"):
        read(folder, images=None)


@pytest.mark.parametrize(
    "text",
    [
        "path: x\nnames: [knife, 'gun']\n",
        'names:\n  - knife\n  - "gun"\nnc: 2\n',
        "nc: 2\nnames:\n  0: knife\n  1: gun # loaded\n",
        "names:\n- knife\n\n# more\n- gun\ntrain: images\n",
    ],
)
def test_classes_of_yolo_from_yaml(tmp_path: Path, text: str) -> None:
    folder = yolo(tmp_path, {"a": "1 .5 .5 .1 .1\n"})
    (folder / "classes.txt").unlink()
    write(folder / "data.yaml", text)
    assert [box.label for box in read(folder)[0].boxes or ()] == ["gun"]


# Pascal VOC

VOC = """<annotation><filename>a.jpg</filename><object><name>gun</name>
<bndbox><xmin>1</xmin><ymin>11</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>"""


def test_voc_counts_from_one(tmp_path: Path) -> None:
    write(tmp_path / "JPEGImages/a.jpg", "")
    write(tmp_path / "Annotations/a.xml", VOC)
    write(tmp_path / "Annotations/b.xml", "<annotation><filename>b.jpg</filename></annotation>")
    one, two = mapped(read(tmp_path), tmp_path)
    assert [sides(box) for box in one.boxes or ()] == [(0, 10, 20, 30)]
    assert (one.label, Path(one.image.uri).relative_to(tmp_path)) == ("gun", Path("JPEGImages/a.jpg"))
    assert (two.label, two.boxes) == ("none", ())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + VOC, "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + VOC, "document type"),
        (VOC[:-20], "not XML"),
        ("<html/>", "not a VOC file: it starts with <html>"),
        (VOC.replace("<xmax>20", "<xmax>nan"), "object 1: xmax is nan"),
        (VOC.replace("<xmin>1<", "<xmin>40<"), "object 1: the box"),
        (VOC.replace("<ymin>11</ymin>", ""), "object 1: ymin is not a number"),
        (VOC.replace("a.jpg", "../../etc/passwd"), "is not an image's"),
    ],
)
def test_problems_of_voc(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(BadLabels) as found:
        read(write(tmp_path / "a.xml", body))
    assert words in str(found.value)


# Label Studio


def task(
    *results: dict[str, Any], who: Any = 3, image: str = "/data/local-files/?d=x/a.jpg", **more: Any
) -> dict[str, Any]:
    annotation = {"completed_by": who, "result": [{"value": value} for value in results]} | more
    return {"id": 1, "data": {"image": image}, "annotations": [annotation]}


def test_label_studio_choices_rectangles_and_annotators(tmp_path: Path) -> None:
    rectangle = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["knife"]}
    body = [
        task({"choices": ["gun"]}),
        task(rectangle, who={"email": "ann@example.org"}, image="s3://b/k.jpg"),
        task(image="/data/upload/3/8f-c%20d.jpg"),
        task({"choices": ["gun"]}, was_cancelled=True),
    ]
    *answered, skipped = read(write(tmp_path / "l.json", body))
    assert skipped.blank
    one, two, three = mapped(answered, tmp_path)
    assert (one.label, one.boxes, one.who, Path(one.image.uri)) == ("gun", None, "annotator 3", tmp_path / "x/a.jpg")
    assert (two.label, two.who, two.image.uri) == ("knife", "ann@example.org", "s3://b/k.jpg")
    assert [sides(box) for box in two.boxes or ()] == [pytest.approx((0.1, 0.2, 0.4, 0.6))]
    assert (three.label, Path(three.image.uri)) == ("none", tmp_path / "upload/3/8f-c d.jpg")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([{"image": "a", "choice": "gun"}], "neither COCO"),
        ([task(), {"data": {"image": "a"}}], "task 2: `annotations` is not a list"),
        ([task({"choices": ["a", "b"]})], "several choices for one image"),
        ([task({"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 5, "rectanglelabels": ["a"]})], "rotated"),
        ([task({"x": 1, "y": 2, "width": 3, "rectanglelabels": ["a"]})], "height is not a number"),
        ([task(), {"annotations": [], "data": {"text": "a"}}], "`data` has no image"),
    ],
)
def test_problems_of_label_studio(tmp_path: Path, body: Any, words: str) -> None:
    with pytest.raises(BadLabels) as found:
        read(write(tmp_path / "l.json", body))
    assert words in str(found.value)


# which format


def test_what_does_not_tell_its_format_is_asked_about(tmp_path: Path) -> None:
    for name, body, words in (
        ("a.dat", "a", "give --format"),
        ("a.json", "{}", "neither COCO"),
        ("a.json", '{"images": [', "not JSON"),
        ("a.csv", "uri,label\n", "no label found"),
        ("folder/x.bin", "", "neither YOLO"),
    ):
        path = write(tmp_path / name, body)
        with pytest.raises(BadLabels, match=words):
            read(path.parent if name.startswith("folder") else path)
    with pytest.raises(SourceNotFound):
        read(tmp_path / "gone.csv")


# words


def test_strange_labels_are_reported_once_each_and_can_be_mapped(tmp_path: Path) -> None:
    entries = read(write(tmp_path / "m.csv", "uri,label\na,Pistol\nb,Pistol\nc,none\n"))
    with pytest.raises(
        BadLabels, match=r"f: in 2 entries, first line 2: 'Pistol' is not a label .*--map 'Pistol=OURS'"
    ):
        mapped(entries, tmp_path)
    assert [one.label for one in mapped(entries, tmp_path, Pistol="gun")] == ["gun", "gun", "none"]
    with pytest.raises(BadLabels, match="'pistol' is not a label"):
        mapped(entries, tmp_path, Pistol="pistol")


def test_one_person_says_one_thing_of_an_image(tmp_path: Path) -> None:
    entries = read(write(tmp_path / "m.csv", "uri,label,who\na,gun,\na,none,bob\n./a,none,\n"))
    with pytest.raises(BadLabels, match="f: line 4: me labels an image none here and gun at line 2"):
        mapped(entries, tmp_path)


def test_pairs_of_a_map() -> None:
    assert parse_map(["a=b=c", "d=c"]) == {"a=b": "c", "d": "c"}
    for pairs in (["a"], ["=a"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(BadLabels, match="--map"):
            parse_map(pairs)


# names of images


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg", "x/../../a.jpg", "..", ".", "https://h/a.jpg", "s3://bucket", "mem://a", "file:///a%00b",
        "s3://b/k?X-Amz-Signature=abc", "https://b.s3.amazonaws.com/k?X-Amz-Signature=abc",
    ],
)  # fmt: skip
def test_names_that_mean_no_image_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedLineError) as found:
        image_at(name, Root(folder=str(tmp_path)))
    assert "abc" not in str(found.value)


def test_names_below_a_bucket(tmp_path: Path) -> None:
    root = root_of("s3://bucket/prefix/", labels=tmp_path)
    assert image_at("a/b.jpg", root).uri == "s3://bucket/prefix/a/b.jpg"
    assert image_at("s3://other/b.jpg", root).uri == "s3://other/b.jpg"
    with pytest.raises(MalformedLineError, match="not below"):
        image_at("a/../../b.jpg", root)
    with pytest.raises(BadSource):
        root_of("https://h/x", labels=tmp_path)
    with pytest.raises(SourceNotFound):
        root_of(str(tmp_path / "gone"), labels=tmp_path)


def test_absolute_names_are_read_from_their_own_folder(tmp_path: Path) -> None:
    image = image_at("/x/../y/a.jpg", Root(folder=str(tmp_path)))
    assert (image.uri, image.root) == ("/y/a.jpg", "/y")


# damage: whatever stands in a file ends in entries or in one line of BadLabels

many = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD: dict[str, tuple[str, Callable[[], str]]] = {
    "csv": ("m.csv", lambda: "uri,label,boxes\na.jpg,gun,gun 1 2 3 4\nb.jpg,none,\n"),
    "jsonl": (
        "m.jsonl",
        lambda: '{"uri": "a", "label": "gun", "boxes": [{"x0": 1, "y0": 2, "x1": 3, "y1": 4, "label": "gun"}]}\n',
    ),
    "coco": ("c.json", lambda: json.dumps(coco())),
    "voc": ("a.xml", lambda: VOC),
    "labelstudio": ("l.json", lambda: json.dumps([task({"choices": ["gun"]}), task()])),
    "cvat": ("c.xml", lambda: CVAT),
    "groundtruth": ("g.manifest", lambda: json.dumps(detection()) + "\n"),
    "yolo": ("labels/a.txt", lambda: "0 .5 .5 .1 .1\n1 .2 .2 .1 .1\n"),
}


def survives(form: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yolo(folder, {"a": ""})
        path = folder / GOOD[form][0]
        path.write_bytes(content)
        understood, words = [], ""
        try:
            entries = read(folder if form == "yolo" else path, form, images=folder)
            understood = mapped([entry for entry in entries if not entry.blank], folder, empty="none")
        except BadLabels as error:
            words = str(error)
    assert "\n" not in words
    assert len(words) < 3000
    for one in understood:
        json.dumps([one.label, one.who, one.note, one.image.uri], allow_nan=False).encode()
        assert "\0" not in one.image.uri
        assert one.image.uri.startswith(("/", "s3://", "file:///"))


@pytest.mark.parametrize("form", READERS)
@many
@given(
    cut=st.integers(0, 400),
    at=st.integers(0, 400),
    junk=st.one_of(
        st.binary(max_size=8),
        st.sampled_from([b"\0", b"NaN", b"1e999", b"9" * 5000, b"[" * 3000, b"\xff", b'"', b"\xed\xa0\x80"]),
    ),
)
@example(cut=400, at=0, junk=b"")
@example(cut=30, at=0, junk=b"")
def test_damaged_files(form: str, cut: int, at: int, junk: bytes) -> None:
    content = GOOD[form][1]().encode()[:cut]
    survives(form, content[:at] + junk + content[at:])


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)


@pytest.mark.parametrize("form", ["coco", "labelstudio", "jsonl"])
@many
@given(data=st.data())
def test_any_value_in_any_place_of_a_json_file(form: str, data: st.DataObject) -> None:
    body = json.loads(GOOD[form][1]())
    at: Any = body
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            at[key] = data.draw(VALUES)
            break
        at = at[key]
    survives(form, json.dumps(body).encode())


@many
@given(rows=st.lists(st.lists(st.text(max_size=6), min_size=3, max_size=3), max_size=3))
def test_any_text_in_a_table(rows: list[list[str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["uri", "label", "boxes"], *rows])
    survives("csv", out.getvalue().encode("utf-8", "surrogatepass"))
