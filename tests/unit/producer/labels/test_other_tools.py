"""CVAT, Ground Truth, JSON-MIN, tasks on S3, other tables, packed files and files of names: what each says is kept."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from scanfleet.errors import BadLabels
from scanfleet.producer.labels.formats.detect import read_labels
from scanfleet.producer.labels.formats.entries import Entry, Options, Problems
from scanfleet.producer.labels.label_names import parse_map
from scanfleet.storage.s3.uri import s3_of_address
from tests.helpers.work_done import n_lines
from tests.unit.producer.labels.label_files import CVAT, classified, detection, rectangle, row
from tests.unit.producer.labels.test_left_out import imported, put


def read(path: Path, **options: Any) -> tuple[list[Entry], Problems]:
    problems = Problems(path.name, strict=False)
    return read_labels(path, form="auto", options=Options(images=path.parent, **options), problems=problems), problems


def lines(*rows: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in rows)


# CVAT


def test_cvat_boxes_polygons_and_images_without_any(tmp_path: Path) -> None:
    labels, left_out = imported(put(tmp_path / "c.xml", CVAT))
    gun, knife = ("gun", (20, 10, 60, 30)), ("knife", (90, 10, 120, 50))
    assert {name: label for name, (label, _) in labels.items()} == {"a.png": "knife", "b.png": "none"}
    assert [(box[4], box[:4]) for box in labels["a.png"][1] or ()] == [gun, knife]
    assert left_out == []
    first = read(tmp_path / "c.xml")[0][0]
    assert [box.attributes for box in first.boxes or ()] == [{"material": "steel", "occluded": "true"}, None]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ('<box label="gun" xtl="80" ytl="40" xbr="120" ybr="60" rotation="90"/>', (90, 30, 110, 70)),
        ('<box label="gun" xtl="0" ytl="0" xbr="40" ybr="40" rotation="45"/>', (0, 0, 48.28, 48.28)),
        ('<ellipse label="gun" cx="100" cy="50" rx="20" ry="10"/>', (80, 40, 120, 60)),
        ('<ellipse label="gun" cx="100" cy="50" rx="20" ry="10" rotation="90"/>', (90, 30, 110, 70)),
        ('<mask label="gun" rle="1" left="10" top="20" width="30" height="40"/>', (10, 20, 40, 60)),
        ('<points label="gun" points="1,2"/>', None),
        ('<polyline label="gun" points="1,2;3,4"/>', None),
        ('<tag label="gun"/>', None),
    ],
)
def test_every_shape_of_cvat_says_its_label(tmp_path: Path, shape: str, box: Any) -> None:
    text = f'<annotations><image name="a.png" width="200" height="100">{shape}</image></annotations>'
    labels, _ = imported(put(tmp_path / "c.xml", text))
    assert labels["a.png"][0] == "gun"
    assert [pytest.approx(one[:4]) for one in labels["a.png"][1] or ()] == ([] if box is None else [box])


@pytest.mark.parametrize("shape", ['<tag label="none"/><tag label="gun"/>', "<box/>", '<blob label="gun"/>'])
def test_an_image_whose_shapes_are_unclear_has_no_label(tmp_path: Path, shape: str) -> None:
    good = '<image name="b.png"><tag label="gun"/></image>'
    text = f'<annotations><image name="a.png">{shape}</image>{good}</annotations>'
    labels, left_out = imported(put(tmp_path / "c.xml", text))
    assert labels.keys() == {"b.png"}
    assert "image 1" in left_out[0]


def test_images_of_one_name_in_several_tasks_are_left_out(tmp_path: Path) -> None:
    shape = '<box label="gun" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    images = [f'<image name="a.png" task_id="{task}" subset="train">{shape}</image>' for task in (1, 2)]
    other = '<image name="b.png" task_id="2" subset="train"></image>'
    labels, left_out = imported(put(tmp_path / "c.xml", f"<annotations>{''.join(images)}{other}</annotations>"))
    assert labels == {"b.png": ("none", [])}
    assert left_out == [f"image {number}: 2 tasks or subsets have an image a.png" for number in (1, 2)]


TURNED = ("gun", [(90.0, 30.0, 110.0, 70.0, "gun")])  # 80 40 120 60, by 90 degrees
VOC = """<annotation><filename>a.png</filename><size><width>200</width><height>100</height></size><object>
<name>gun</name><bndbox><xmin>81</xmin><ymin>41</ymin><xmax>120</xmax><ymax>60</ymax></bndbox><attributes><attribute>
<name>rotation</name><value>90.0</value></attribute></attributes></object></annotation>"""


def test_a_box_that_cvat_turned_before_it_wrote_coco_or_voc(tmp_path: Path) -> None:
    given = {"occluded": False, "rotation": 90.0}
    body: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [80, 40, 40, 20], "attributes": given}],
        "categories": [{"id": 1, "name": "gun"}],
    }
    for path in (put(tmp_path / "c.json", body), put(tmp_path / "a.xml", VOC)):
        assert imported(path)[0] == {"a.png": TURNED}
        assert "rotation" not in ((read(path)[0][0].boxes or ())[0].attributes or {})
    given["rotation"] = "90"  # type: ignore[assignment] # an attribute that some person gave
    (box,) = read(put(tmp_path / "c.json", body))[0][0].boxes or ()
    assert (box.x0, box.attributes) == (80, {"occluded": "false", "rotation": "90"})


def test_a_folder_of_two_formats_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "classes.txt", "gun\n")
    put(tmp_path / "labels/a.txt", "")
    put(tmp_path / "images/a.png", "x")
    put(tmp_path / "other.xml", "<x/>")
    assert imported(tmp_path)[0] == {"a.png": ("none", [])}
    put(tmp_path / "a.xml", VOC)
    with pytest.raises(BadLabels, match="holds both YOLO and Pascal VOC: choose"):
        imported(tmp_path)


@pytest.mark.parametrize("side", ["1_0", "1\u0660", "\u0660.\u0665"])
def test_a_number_is_written_in_ascii_digits(tmp_path: Path, side: str) -> None:
    labels, left_out = imported(put(tmp_path / "t.csv", f"uri,label,boxes\na.png,gun,gun {side} 10 90 90\n"))
    assert labels == {"a.png": ("gun", None)}
    assert len(left_out) == 1


def test_cvat_for_video_and_a_document_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadLabels, match="CVAT for images"):
        read(put(tmp_path / "c.xml", "<annotations><track label='gun'/></annotations>"))
    with pytest.raises(BadLabels, match="document type"):
        read_labels(
            put(tmp_path / "d.xml", "<!DOCTYPE a><annotations/>"), form="cvat", options=Options(images=tmp_path)
        )


# Ground Truth


def test_boxes_and_classes_of_ground_truth(tmp_path: Path) -> None:
    nothing = detection(uri="b.png", annotations=[])
    labels, left_out = imported(put(tmp_path / "g.manifest", lines(detection(), nothing)))
    assert labels == {"a.png": ("gun", [(10, 20, 40, 60, "gun")]), "b.png": ("none", [])}
    assert left_out == []
    one = put(tmp_path / "o.jsonl", lines(classified("job", "gun"), classified("job", "none", uri="b.png")))
    assert imported(one)[0] == {"a.png": ("gun", None), "b.png": ("none", None)}


def test_what_a_machine_labelled_or_a_job_failed_at_is_no_label(tmp_path: Path) -> None:
    rows = [
        detection(human="no", uri="m.png"),
        classified("job", None, uri="f.png"),
        detection({"class_id": 7, "left": 0, "top": 0, "width": 5, "height": 5}, uri="c.png"),
    ]
    labels, left_out = imported(put(tmp_path / "g.manifest", lines(detection(), *rows)))
    assert labels.keys() == {"a.png"}
    assert [words.split(":")[0] for words in left_out] == ["line 2", "line 3", "line 4"]
    _, problems = read(tmp_path / "g.manifest")
    assert problems.reasons["labelled by a machine"] == 1


def test_several_jobs_are_told_apart(tmp_path: Path) -> None:
    both = detection() | classified("verdict", "none")
    path = put(tmp_path / "g.manifest", lines(both))
    with pytest.raises(BadLabels, match=r"several label attributes \(job, verdict\)"):
        read(path)
    assert [one.label for one in read(path, label="verdict", label_named=True)[0]] == ["none"]
    with pytest.raises(BadLabels, match="no label attribute 'jobs'"):
        read(path, label="jobs", label_named=True)


# Label Studio


def test_regions_of_json_min(tmp_path: Path) -> None:
    body = [row(label=[rectangle("gun")], site="A"), row("b.png")]
    labels, left_out = imported(put(tmp_path / "m.json", body))
    assert labels == {"a.png": ("gun", [(20, 10, 60, 30, "gun")]), "b.png": ("none", [])}
    assert left_out == []


def test_a_text_in_json_min_is_a_label_only_if_its_control_is_named(tmp_path: Path) -> None:
    body = [row(verdict="gun"), row("b.png", verdict="none"), row("c.png", label=[rectangle("knife")])]
    path = put(tmp_path / "m.json", body)
    labels, left_out = imported(path)
    assert labels.keys() == {"c.png"}
    assert len(left_out) == 2
    assert {name: label for name, (label, _) in imported(path, control="verdict")[0].items()} == {
        "a.png": "gun", "b.png": "none", "c.png": "knife",
    }  # fmt: skip


def test_a_row_of_json_min_that_nobody_annotated_says_nothing(tmp_path: Path) -> None:
    body = [row(label=[rectangle("gun")]), row("b.png", annotation_id=None)]
    assert imported(put(tmp_path / "m.json", body))[0].keys() == {"a.png"}


SIGNED = "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=x&X-Amz-Signature=secret"


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/a b/c.png",
        f"https://bucket.s3.amazonaws.com/a%20b/c.png{SIGNED}",
        f"https://bucket.s3.eu-central-1.amazonaws.com/a%20b/c.png{SIGNED}",
        f"https://s3.eu-central-1.amazonaws.com/bucket/a%20b/c.png{SIGNED}",
        f"http://minio:9000/bucket/a%20b/c.png{SIGNED}",
        f"/tasks/7/resolve/?fileuri={base64.b64encode(b's3://bucket/a b/c.png').decode()}",
    ],
)
def test_tasks_on_s3_name_their_object_without_the_signature(tmp_path: Path, address: str) -> None:
    task = {"data": {"image": address}, "annotations": [{"completed_by": 1, "result": []}]}
    entries, _ = read(put(tmp_path / "l.json", [task]), endpoint="http://minio:9000")
    assert [one.uri for one in entries] == ["s3://bucket/a b/c.png"]


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com/bucket/a.png",
        "https://bucket.s3.amazonaws.com.example.com/a.png",
        "https://s3.amazonaws.com/bucket",
        "https://minio:9000@example.com/bucket/a.png",
        "s3://bucket/a.png",
    ],
)
def test_other_addresses_are_no_objects_of_s3(address: str) -> None:
    assert s3_of_address(address, endpoint="http://minio:9000") is None


def test_answers_about_a_region_are_its_attributes(tmp_path: Path) -> None:
    frame = {"original_width": 200, "original_height": 100}
    sides = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}
    results = [
        {"id": "r", "from_name": "label", "type": "rectanglelabels", "value": sides | {"rectanglelabels": ["gun"]}},
        {"id": "r", "from_name": "material", "type": "choices", "value": sides | {"choices": ["steel", "wood"]}},
        {"id": "r", "from_name": "words", "type": "textarea", "value": sides | {"text": ["HERE"]}},
        {"id": "w", "from_name": "hall", "type": "textarea", "value": {"text": ["B"]}},
        {"id": "g", "from_name": "stars", "type": "rating", "value": {"rating": 4}},
    ]
    task = {"data": {"image": "a.png"}, "annotations": [{"result": [one | frame for one in results]}]}
    one = read(put(tmp_path / "l.json", [task]))[0][0]
    assert [box.attributes for box in one.boxes or ()] == [{"material": "steel, wood", "words": "HERE"}]
    assert (one.label, one.attributes) == (None, {"hall": "B", "stars": "4"})


def test_regions_with_one_id_and_one_control_are_two(tmp_path: Path) -> None:
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}
    results = [
        {"id": "r", "from_name": "label", "type": "rectanglelabels", "value": value | {"rectanglelabels": [label]}}
        for label in ("gun", "knife")
    ]
    path = put(tmp_path / "l.json", [{"data": {"image": "a.png"}, "annotations": [{"result": results}]}])
    assert imported(path)[0]["a.png"][0] == "knife"
    results[0]["value"] = {}  # something is there, and nothing says what
    put(
        path,
        [{"data": {"image": "a.png"}, "annotations": [{"result": results}]}, row("b.png", label=[rectangle("gun")])],
    )
    assert imported(path)[0].keys() == {"b.png"}


def test_regions_of_other_shapes_with_one_id_keep_their_boxes(tmp_path: Path) -> None:
    point = {"x": 1, "y": 1, "width": 1, "keypointlabels": ["knife"]}
    parts = [{"rectanglelabels": ["gun"]}, point, {"labels": ["scissors"]}]
    values = [{key: rectangle("gun")[key] for key in ("x", "y", "width", "height")} | parts[0], *parts[1:]]
    results = [{"id": "r", "from_name": str(number), "value": value} for number, value in enumerate(values)]
    path = put(tmp_path / "l.json", [{"data": {"image": "a.png"}, "annotations": [{"result": results}]}])
    label, boxes = imported(path)[0]["a.png"]
    assert label == "knife"
    assert boxes == [(20, 10, 60, 30, "gun"), (20, 10, 60, 30, "scissors")]


def test_many_regions_of_one_id_take_no_longer_than_others(tmp_path: Path) -> None:
    def work(*ids: str) -> int:
        results = [{"id": one, "value": rectangle("gun")} for one in ids]
        path = put(tmp_path / "l.json", [{"data": {"image": "a.png"}, "annotations": [{"result": results}]}])
        entries: list[Any] = []
        n = n_lines(lambda: entries.extend(read(path)[0]))
        assert len(entries[0].boxes or ()) == len(ids)
        return n

    ids = [str(number) for number in range(300)]
    assert work(*["1"] * len(ids)) < 1.5 * work(*ids)


@pytest.mark.parametrize(("whole", "label"), [(7, "gun"), (8, None)])
def test_an_annotation_without_a_box_must_agree_with_the_others(tmp_path: Path, whole: int, label: str | None) -> None:
    body = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [10, 10, 20, 20]},
            {"image_id": 1, "category_id": whole},
            {"image_id": 2, "category_id": 8},
        ],
        "categories": [{"id": 7, "name": "gun"}, {"id": 8, "name": "knife"}],
    }
    labels, left_out = imported(put(tmp_path / "c.json", body))
    assert labels.get("a.png", (None,))[0] == label
    assert labels["b.png"] == ("knife", None)
    assert len(left_out) == (label is None)


# tables, packed files, names


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz"])
def test_tables_are_read_by_their_separator(tmp_path: Path, mark: str, suffix: str) -> None:
    text = f"uri{mark}label{mark}boxes\na.png{mark}gun{mark}gun 1 2 3 4\n"
    path = tmp_path / f"t{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    assert imported(path)[0] == {"a.png": ("gun", [(1, 2, 3, 4, "gun")])}
    path.write_bytes(f"sep={mark}\r\n{text}".encode())
    assert imported(path)[0].keys() == {"a.png"}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("n.ndjson", lines({"uri": "a.png", "label": "gun"})),
        ("c.xml", CVAT),
        ("g.manifest", lines(detection())),
        ("m.json", json.dumps([row(label=[rectangle("gun")])])),
    ],
)
def test_packed_files_say_what_they_say_unpacked(tmp_path: Path, name: str, body: str) -> None:
    plain = put(tmp_path / name, body)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(body.encode()))
    assert imported(packed) == imported(plain)
    packed.write_bytes(gzip.compress(body.encode())[:-9])
    with pytest.raises(BadLabels, match="not a whole gzip file"):
        read(packed)


@pytest.mark.parametrize(
    ("odd", "why", "end"),
    [
        (b"\xe9.png,gun,", "not UTF-8", b"\n"),
        (b"b.png,gun,\0", "a NUL byte", b"\r\n"),
        (b'"b.png"x,gun,', "not CSV", b"\r\n"),
        (b'"b.png"x,gun,', "not CSV", b"\r"),
        (b"b.png,gun," + b"x" * 200_000, "field limit", b"\r"),
    ],
)
def test_an_odd_line_shuts_out_no_other(tmp_path: Path, odd: bytes, why: str, end: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(end.join([b"uri,label,note", b"a.png,gun,", odd, b"c.png,none,", b""]))
    labels, left_out = imported(tmp_path / "t.csv")
    assert labels == {"a.png": ("gun", None), "c.png": ("none", None)}
    assert [one.startswith("line 3: ") and why in one for one in left_out] == [True]


@pytest.mark.parametrize("name", ["t.jsonl", "t.manifest"])
def test_an_odd_line_of_objects_shuts_out_no_other(tmp_path: Path, name: str) -> None:
    rows = [detection(uri=uri) if name == "t.manifest" else {"uri": uri, "label": "gun"} for uri in ("a.png", "b.png")]
    first, last = (json.dumps(row).encode() for row in rows)
    (tmp_path / name).write_bytes(b"\n".join([b"\xff", first, b"{\0}", b"x" * (1 << 20), last]))
    labels, left_out = imported(tmp_path / name)
    assert {image: label for image, (label, _) in labels.items()} == {"a.png": "gun", "b.png": "gun"}
    assert [one.partition(":")[0] for one in left_out] == ["line 1", "line 3", "line 4"]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.manifest"])
def test_a_file_in_utf_16_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("uri,label\na.png,gun\n" * 9, "utf-16")
    with pytest.raises(BadLabels, match="it is UTF-16: save the file as UTF-8; nothing") as found:
        imported(tmp_path / name)
    assert "problems" not in str(found.value)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz", "t.manifest.gz"])
def test_a_packed_file_that_is_cut_is_refused(tmp_path: Path, name: str) -> None:
    body = "uri,label\n" + "a.png,gun\n" * 5000 if "csv" in name else lines(*[detection() | {"label": "gun"}] * 5000)
    (tmp_path / name).write_bytes(gzip.compress(body.replace("source-ref", "uri").encode())[:-12])
    with pytest.raises(BadLabels, match="not a whole gzip file"):
        imported(tmp_path / name)


def test_columns_kept_as_attributes(tmp_path: Path) -> None:
    table = 'uri,label,size,hall,attributes\na.png,gun,small,,"{""text"": ""ab"", ""n"": 3}"\n'
    one = read(put(tmp_path / "t.csv", table), attributes=("size", "hall"))[0][0]
    assert one.attributes == {"text": "ab", "n": "3", "size": "small"}
    with pytest.raises(BadLabels, match="--attribute-column"):
        read(tmp_path / "t.csv", attributes=("bulk",))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("m.toml", 'Pistol = "gun"\n"big knife" = "knife"\n'),
        ("m.toml", '[labels]\nPistol = "gun"\n"big knife" = "knife"\n'),
        ("m.json", '{"Pistol": "gun", "big knife": "knife"}'),
        ("m.csv", "theirs,ours\nPistol,gun\nbig knife,knife\n"),
        ("m.csv", "Pistol;gun\nbig knife;knife\n"),
        ("m.tsv", "Pistol\tgun\nbig knife\tknife\n"),
    ],
)
def test_files_of_names(tmp_path: Path, name: str, body: str) -> None:
    path = put(tmp_path / name, body)
    assert parse_map([str(path), "a=b"]) == {"Pistol": "gun", "big knife": "knife", "a": "b"}
    with pytest.raises(BadLabels, match="mapped to both"):
        parse_map([str(path), "Pistol=knife"])


@pytest.mark.parametrize("body", ["Pistol = 3", "Pistol", 'Pistol = ""', 'a = "x"\na = "y"'])
def test_a_file_of_names_that_is_unclear_is_refused(tmp_path: Path, body: str) -> None:
    with pytest.raises(BadLabels, match=r"--map .*m.toml"):
        parse_map([str(put(tmp_path / "m.toml", body))])


# one thing said twice


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("t.jsonl", '{"uri": "b.png", "label": "gun"}\n{"uri": "a.png", "label": "gun", "label": "none"}\n'),
        (
            "v.xml",
            "<annotation><filename>a.png</filename><object><name>none</name><name>gun</name>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>",
        ),
    ],
)
def test_a_field_that_is_given_twice_is_no_label(tmp_path: Path, name: str, body: str) -> None:
    try:
        labels, left_out = imported(put(tmp_path / name, body))
    except BadLabels as error:
        labels, left_out = {}, [str(error)]
    assert "a.png" not in labels
    assert left_out


# nothing unclear is "nothing found"


@pytest.mark.parametrize(
    "inside",
    [
        "<segmented>1</segmented>",
        "<objects><item><name>gun</name></item></objects>",
        "<Object><name>gun</name></Object>",
    ],
)
def test_a_voc_file_without_objects_that_shows_something_has_no_label(tmp_path: Path, inside: str) -> None:
    put(tmp_path / "a.xml", f"<annotation><filename>a.png</filename>{inside}</annotation>")
    nothing = "<source><database>x</database></source><segmented>0</segmented>"
    put(tmp_path / "b.xml", f"<annotation><filename>b.png</filename>{nothing}</annotation>")
    labels, left_out = imported(tmp_path)
    assert {name: label for name, (label, _) in labels.items()} == {"b.png": "none"}
    assert left_out[0].startswith("a.xml: it has")


def annotated(*results: dict[str, Any], data: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"data": data or {"image": "a.png"}, "annotations": [{"completed_by": 1, "result": list(results)} | more]}


def test_tasks_that_nobody_answered_are_counted(tmp_path: Path) -> None:
    region = {"from_name": "label", "value": rectangle("gun")}
    drafted = {"data": {"image": "b.png"}, "annotations": [], "drafts": [{"result": [region]}]}
    skipped = {"data": {"image": "c.png"}, "annotations": [{"was_cancelled": True, "result": [region]}]}
    answered = {"data": {"image": "a.png"}, "annotations": [{"result": [region]}]}
    entries, _ = read(put(tmp_path / "l.json", [answered, drafted, skipped]))
    assert [(entry.uri, entry.blank) for entry in entries] == [("a.png", False), ("b.png", True), ("c.png", True)]


def test_a_skipped_task_of_an_older_export_says_nothing(tmp_path: Path) -> None:
    body = [annotated(skipped=True), annotated(data={"image": "b.png"})]
    assert imported(put(tmp_path / "l.json", body))[0].keys() == {"b.png"}


def test_results_about_another_picture_of_the_task_are_no_label_of_this_one(tmp_path: Path) -> None:
    def result(name: str) -> dict[str, Any]:
        return {"type": "choices", "from_name": "v", "to_name": name, "value": {"choices": ["gun"]}}

    two = {"image": "a.png", "second": "c.png"}
    body = [annotated(result("second"), data=two), annotated(result("img"), data={"image": "b.png"})]
    path = put(tmp_path / "l.json", body)
    labels, left_out = imported(path)
    assert labels == {"b.png": ("gun", None)}
    assert "about 'second', not 'image'" in left_out[0]
    assert imported(path, uri="second")[0]["c.png"] == ("gun", None)
    both = put(tmp_path / "m.json", [annotated(result("img"), result("x")), annotated(data={"image": "b.png"})])
    assert imported(both)[0].keys() == {"b.png"}


def test_a_box_in_shares_is_no_box_in_pixels(tmp_path: Path) -> None:
    labels, left_out = imported(put(tmp_path / "t.csv", "uri,label,boxes\na.png,gun,gun .1 .1 .5 .5\n"))
    assert labels == {"a.png": ("gun", None)}
    assert "give pixels" in left_out[0]


def test_a_flat_box_with_a_polygon_is_around_the_polygon(tmp_path: Path) -> None:
    annotation = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 0, 0], "segmentation": [[10, 10, 20, 10, 20, 30]]}
    body = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [annotation],
        "categories": [{"id": 7, "name": "gun"}],
    }
    assert imported(put(tmp_path / "c.json", body))[0] == {"a.png": ("gun", [(10, 10, 20, 30, "gun")])}
