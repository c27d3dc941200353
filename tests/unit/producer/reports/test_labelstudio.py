"""Tasks for Label Studio: answers are predictions, which an import never takes for labels."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanfleet.db.results.results import Result
from scanfleet.errors import BadLabels
from scanfleet.producer.labels.formats.detect import read_labels
from scanfleet.producer.labels.formats.entries import Options
from scanfleet.producer.reports.export import write_results
from scanfleet.producer.reports.labelstudio import address_of

ANSWER = Result(
    image_id=1, scan="s1", check="overlay", model="m",
    uri="/x y/a.png", root=None, etag=None, size=None, width=200, height=100, content_sha256="c",
    meta=None, state="verdict", label="gun", decision="review", score=0.75,
    boxes=[{"x0": 20, "y0": 10, "x1": 60, "y1": 30, "label": "gun"}],
)  # fmt: skip


def tasks(*results: Result) -> list[dict[str, Any]]:
    file = io.BytesIO()
    write_results(results, file, form="labelstudio")
    found: list[dict[str, Any]] = json.loads(file.getvalue())
    return found


def test_a_review_list_shows_answers_as_predictions(tmp_path: Path) -> None:
    (task,) = tasks(ANSWER, replace(ANSWER, state="failed"), replace(ANSWER, state="pending", width=None))
    assert task["data"] == {
        "image": "/data/local-files/?d=x%20y/a.png", "scan": "s1", "decision": "review", "content_sha256": "c",
    }  # fmt: skip
    ((prediction),) = task["predictions"]
    assert prediction["score"] == 0.75
    verdict, box = prediction["result"]
    assert (verdict["from_name"], verdict["value"]) == ("verdict", {"choices": ["gun"]})
    assert box["value"] == {
        "x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["gun"],
    }  # fmt: skip
    assert (box["original_width"], box["original_height"]) == (200, 100)
    file = tmp_path / "review.json"
    file.write_text(json.dumps([task]))
    with pytest.raises(BadLabels):
        read_labels(file, form="auto", options=Options())


def test_what_people_annotate_in_it_comes_back(tmp_path: Path) -> None:
    (task,) = tasks(ANSWER)
    results = [one | {"id": f"r{number}"} for number, one in enumerate(task["predictions"][0]["result"])]
    results[0]["value"] = {"choices": ["knife"]}
    file = tmp_path / "done.json"
    file.write_text(json.dumps([task | {"annotations": [{"completed_by": 4, "result": results}]}]))
    (one,) = read_labels(file, form="auto", options=Options())
    assert (one.uri, one.label, one.who) == ("x y/a.png", "knife", "annotator 4")


def test_files_outside_the_document_root_have_no_address() -> None:
    assert address_of("/a/b.png", b"/a") == "/data/local-files/?d=b.png"
    assert address_of("/ab/b.png", b"/a") is None
    assert address_of("s3://b/k.png", b"/a") == "s3://b/k.png"
