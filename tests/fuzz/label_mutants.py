"""Files of labels with a threat in a.png and nothing in b.png, and damage that makes a file say less, never more."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

THREAT, OTHER = "gun", "knife"  # what the files say; no file says bottle or scissors
JUNK: tuple[Any, ...] = (None, "", [], {}, "x", -1, 1e999, float("nan"), True, [[]], {"a": 1}, "9" * 400, -0.5, 99999)
SIDES = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}
FRAME = {"original_width": 200, "original_height": 100, "image_rotation": 0}


def _region(label: str) -> dict[str, Any]:
    value = SIDES | {"rectanglelabels": [label]}
    return {"id": label, "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value} | FRAME


def _task(image: str, *results: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"image": image}, "annotations": [{"completed_by": 1, "result": list(results)}]}


def _row(image: str, *labels: str) -> dict[str, Any]:
    regions = [SIDES | {"rectanglelabels": [label]} | FRAME for label in labels]
    return {"id": 1, "image": image, "label": regions, "annotator": 1, "annotation_id": 5}


def _line(uri: str, *numbers: int) -> dict[str, Any]:
    boxes = [{"class_id": number, "left": 10, "top": 20, "width": 30, "height": 40} for number in numbers]
    meta = {"class-map": {"0": OTHER, "1": THREAT}, "type": "groundtruth/object-detection", "human-annotated": "yes"}
    value = {"image_size": [{"width": 200, "height": 100, "depth": 3}], "annotations": boxes}
    return {"source-ref": uri, "job": value, "job-metadata": meta}


JSON: dict[str, tuple[str, Any]] = {
    "coco": (
        "c.json",
        {
            "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 10, 20, 20]},
                {"id": 2, "image_id": 1, "category_id": 8, "segmentation": [[60, 10, 80, 10, 80, 30]]},
            ],
            "categories": [{"id": 7, "name": THREAT}, {"id": 8, "name": OTHER}],
        },
    ),
    "labelstudio": ("l.json", [_task("a.png", _region(THREAT), _region(OTHER)), _task("b.png")]),
    "jsonmin": ("m.json", [_row("a.png", THREAT, OTHER), _row("b.png")]),
    "groundtruth": ("g.manifest", [_line("a.png", 1, 0), _line("b.png")]),
    "jsonl": (
        "t.jsonl",
        [
            {"uri": "a.png", "label": THREAT, "boxes": [{"x0": 1, "y0": 2, "x1": 30, "y1": 40, "label": THREAT}]},
            {"uri": "b.png", "label": "none"},
        ],
    ),
}
TEXT: dict[str, tuple[str, str]] = {
    "csv": ("t.csv", f"uri,label,boxes\na.png,{THREAT},{THREAT} 1 2 30 40; {OTHER} 5 6 70 80\nb.png,none,\n"),
    "voc": (
        "a.xml",
        f"<annotation><filename>a.png</filename><size><width>200</width><height>100</height></size><object><name>{THREAT}"
        "</name><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>",
    ),
    "cvat": (
        "c.xml",
        f'<annotations><image name="a.png" width="200" height="100"><box label="{THREAT}" xtl="20" ytl="10" xbr="60" '
        f'ybr="30"/><polygon label="{OTHER}" points="1,2;30,40;5,60"/></image><image name="b.png"/></annotations>',
    ),
    "yolo": ("labels/a.txt", "1 .5 .5 .2 .2\n0 .1 .1 .2 .1 .2 .2\n"),
}
FORMS = (*JSON, *TEXT)
# What the record of a.png holds; other fields say which image it is, or that it has no record at all.
TELLING = {
    "coco": re.compile(r"annotations/\d+/(category_id|bbox|segmentation)|categories/\d+/(id|name)"),
    "labelstudio": re.compile(r"0/annotations/\d+/result/\d+/(value|id)|0/annotations/\d+/result$"),
    "jsonmin": re.compile(r"0/label/\d+"),
    "groundtruth": re.compile(r"0/job/annotations/\d+|0/job$|0/job-metadata"),
    "jsonl": re.compile(r"0/(label|boxes)"),
}


def files(draw: st.DrawFn, form: str, folder: Path) -> Path:
    """Write a damaged file into a folder of images, and return what to read."""
    name, body = (JSON | TEXT)[form]
    text = _damaged_text(draw, str(body)) if form in TEXT else _as_text(form, _damaged_json(draw, form, body))
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "replace"))
    if form == "yolo":
        (folder / "classes.txt").write_text(f"{OTHER}\n{THREAT}\nnone\n")
        (folder / "images").mkdir()
        (folder / "images/a.png").touch()
        return folder
    return path


def _as_text(form: str, body: Any) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in body) if form in ("groundtruth", "jsonl") else json.dumps(body)


def _damaged_json(draw: st.DrawFn, form: str, body: Any) -> Any:
    """Remove, rename or overwrite one to three of the fields that say what is in a.png."""
    damaged = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in _places(damaged) if TELLING[form].match("/".join(map(str, place)))]
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        at = damaged
        for key in way:
            at = at[key]
        kind = draw(st.sampled_from(("value", "value", "key") if isinstance(at, dict) else ("value",)))
        if kind == "value":
            # An empty list of results says that nothing is there.
            junk = [one for one in JUNK if (last, one) != ("result", [])]
            at[last] = copy.deepcopy(draw(st.sampled_from(junk)))
        else:
            at[f"{last}x"] = at.pop(last)
    return damaged


def _places(body: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [found for key, value in inside for found in ((*way, key), *_places(value, (*way, key)))]


EDITS: tuple[Callable[[str, int, str], str], ...] = (
    lambda text, at, junk: text[:at] + junk + text[at:],
    lambda text, at, junk: text[:at] + junk + text[at + len(junk) :],
    lambda text, at, _: text[:at] + text[at + 1 :],
    lambda text, at, _: text[: at + 1] + text[at:],
    lambda text, at, _: text[:at],
)
MARKS = st.sampled_from(
    [*"\0\"'<>/&,;=.-+ \t\r\n[]{}0179xé\u202e\ufeff", "NaN", "1e999", "&#0;", "<!--", "]]>", "\r\n\r\n"]
)


def _damaged_text(draw: st.DrawFn, text: str) -> str:
    """Insert, overwrite, remove, double or cut one to three characters anywhere."""
    for _ in range(draw(st.integers(1, 3))):
        text = draw(st.sampled_from(EDITS))(text, draw(st.integers(0, max(len(text) - 1, 0))), draw(MARKS))
    return text


def told(form: str, image: str) -> str:
    """Return the label that the undamaged file gives an image: of its regions, the first in the check's order."""
    if image == "b.png":
        return "none"
    return THREAT if form in ("voc", "jsonl", "csv") else OTHER


def yolo_says(text: str) -> set[str]:
    """Return the labels that lines begin with; of a file without lines, that for nothing."""
    words = [line.split()[0] for line in text.replace("\r", "\n").split("\n") if line.split()]
    names = {"0": OTHER, "1": THREAT, "2": "none"}
    return {names[word.lstrip("\ufeff").lstrip("0") or "0"] for word in words} if words else {"none"}
