"""Workbooks, databases and lists of answers, read by the programs they are for."""

import io
import json
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import sqlalchemy as sa
from openpyxl.utils.escape import unescape
from pycocotools.coco import COCO

from scanfleet.db.results.results import ResultFilter
from scanfleet.producer.reports.exports.columns import open_table
from scanfleet.producer.reports.exports.formats import Export
from scanfleet.producer.reports.exports.xlsx import write_xlsx
from tests.rigs.results_rig import fill

ODD = ["=1+1", "http://a/b", "007", "_x0041_", "a\x0bb\x1f", "-5", "x" * 40_000, "{=1}", "mailto:a@b", "internal:x!A1"]


def written(engine: sa.Engine, form: str, **more: Any) -> bytes:
    file = io.BytesIO()
    Export(engine=engine, wanted=ResultFilter(), form=form, **more).write(file)
    return file.getvalue()


def sheets(data: bytes) -> list[list[Sequence[Any]]]:
    return [list(sheet.iter_rows()) for sheet in openpyxl.load_workbook(io.BytesIO(data)).worksheets]


def test_a_workbook_has_texts_numbers_and_dates_and_nothing_runs(engine: sa.Engine) -> None:
    fill(engine, [*({"f": text, "n": 1.5, "b": True, "big": 2**60} for text in ODD), None])
    (rows,) = sheets(
        written(engine, "xlsx", columns=["image_id", "scored_at", "meta_f", "meta_n", "meta_b", "meta_big"])
    )
    assert [cell.value for cell in rows[0]] == ["image_id", "scored_at", "meta_f", "meta_n", "meta_b", "meta_big"]
    for text, row in zip(ODD, rows[1:], strict=False):
        assert (unescape(row[2].value), row[2].data_type, row[2].hyperlink) == (text[:32_767], "s", None)
        assert (row[3].value, row[4].value, row[5].value) == (1.5, True, str(2**60))
    assert rows[1][1].value == datetime(2026, 11, 29, 23, 59, 59, 500_000)
    assert rows[1][1].is_date
    assert [cell.value for cell in rows[-1][2:]] == [None] * 4


def test_what_a_sheet_cannot_hold_goes_on_in_the_next(engine: sa.Engine) -> None:
    fill(engine)
    file = io.BytesIO()
    assert write_xlsx(open_table(engine, ResultFilter(), columns=["image_id"]), file, sheet_rows=3) == 6
    found = [[row[0].value for row in rows] for rows in sheets(file.getvalue())]
    assert found == [["image_id", 1, 2], ["image_id", 3, 4], ["image_id", 5, 6]]


def test_a_database_has_types_indexes_and_views(engine: sa.Engine, tmp_path: Path) -> None:
    fill(engine, [{"n": 1, "x y": 0.5, "b": True, "t": "1"}] * 6)
    path = tmp_path / "out.db"
    path.write_bytes(written(engine, "sqlite"))
    with closing(sqlite3.connect(path)) as connection:
        kinds = "select typeof(meta_n), typeof(meta_x_y), typeof(meta_b), typeof(meta_t), typeof(score) from results"
        assert connection.execute(kinds).fetchall()[1] == ("integer", "real", "integer", "text", "real")
        at = "select scored_at, date(scored_at), json_extract(boxes, '$[0].x1'), reused from results where image_id = 2"
        assert connection.execute(at).fetchone() == ("2026-11-30T23:59:59.500000+00:00", "2026-11-30", 9.25, 0)
        counts = {
            name: connection.execute(f"select count(*) from {name}").fetchone()[0] for name in ("flags", "reviews")
        }
        assert counts == {"flags": 2, "reviews": 1}
        assert connection.execute("select failure_detail from failures").fetchall() == [('he said "no"\n',)]
        assert sum(n for *_, n in connection.execute("select * from counts")) == 6
        plan = connection.execute("explain query plan select * from results where decision = 'flag'").fetchall()
        assert "results_decision" in plan[0][3]
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    few = tmp_path / "few.db"
    few.write_bytes(written(engine, "sqlite", columns=["uri"]))
    with closing(sqlite3.connect(few)) as connection:
        names = {name for (name,) in connection.execute("select name from sqlite_master")}
    assert names == {"results", "results_uri"}


def test_boxes_of_answers_load_as_coco_with_every_category(engine: sa.Engine, tmp_path: Path) -> None:
    fill(engine)
    path = tmp_path / "coco.json"
    path.write_bytes(written(engine, "coco"))
    with redirect_stdout(sys.stderr):
        coco = COCO(str(path))
    assert sorted(coco.imgs) == [1, 2, 3, 4]
    assert (coco.imgs[2]["file_name"], coco.imgs[2]["width"], coco.imgs[2]["height"]) == ("s3://B/001.jpg", 10, 20)
    names = {number: category["name"] for number, category in coco.cats.items()}
    assert list(names.values()) == ["overlay", "natural", "none", "añ 'x'"]
    found = [(box["image_id"], names[box["category_id"]], box["bbox"], box["score"]) for box in coco.anns.values()]
    assert found == [(2, "overlay", [1, 2.5, 8.25, 15.5], 0.875), (2, "añ 'x'", [1, 2.5, 8.25, 15.5], 0.875)]


def test_responses_look_like_those_of_rekognition(engine: sa.Engine) -> None:
    fill(engine)
    flag, review, clear, _, failed = [json.loads(line) for line in written(engine, "rekognition").splitlines()]
    assert flag["Image"]["S3Object"] == {"Bucket": "B", "Name": "000.jpg"}
    top, below = flag["ModerationLabels"]
    assert (top["Name"], top["ParentName"], top["TaxonomyLevel"]) == ("overlay", "", 1)
    assert (below["Name"], below["ParentName"], below["TaxonomyLevel"]) == ("overlay", "overlay", 2)
    assert top["Confidence"] == pytest.approx(81.757, abs=0.001)  # of a margin of 1.5
    assert review["CustomLabels"][0]["Confidence"] == pytest.approx(30.0)
    assert review["CustomLabels"][1] == {
        "Name": "overlay",
        "Confidence": 87.5,
        "Geometry": {"BoundingBox": {"Left": 0.1, "Top": 0.125, "Width": 0.825, "Height": 0.775}},
    }
    assert (clear["ModerationLabels"], clear["CustomLabels"][0]) == ([], {"Name": "none", "Confidence": 0.0})
    assert failed["Error"] == {"Code": "truncated", "Message": 'he said "no"\n'}


def test_results_without_flags_have_no_confidence(engine: sa.Engine, tmp_path: Path) -> None:
    check = tmp_path / "kinds.toml"
    check.write_text('name = "kinds"\nprompt = "What is it?"\nlabels = ["overlay", "none"]\n')
    fill(engine, check=str(check))
    first = json.loads(written(engine, "rekognition").splitlines()[0])
    assert first["CustomLabels"] == [{"Name": "overlay"}]
    assert [label.get("Confidence") for label in first["ModerationLabels"]] == [None]
