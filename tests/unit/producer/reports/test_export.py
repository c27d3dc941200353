"""Results as lines: every format says the same."""

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

from scanfleet.db.results.results import FailureInfo, Result, ScorerInfo
from scanfleet.producer.reports.export import COLUMNS, as_record, write_results
from scanfleet.producer.reports.exports.columns import MAX_META_COLUMNS

SCORER = ScorerInfo(
    id=3, key="k", base_model="pocket", revision="r1", precision="fp32", adapter="abc", adapter_id=2, mode="lora"
)


def make(image_id: int, **more: Any) -> Result:
    given: dict[str, Any] = {
        "image_id": image_id,
        "scan": "s1",
        "check": "overlay",
        "model": "m",
        "uri": f"/a/ü {image_id},\n.jpg",
        "root": "/a",
        "etag": None,
        "size": 10,
        "width": None,
        "height": None,
        "content_sha256": None,
        "meta": None,
        "state": "pending",
    }
    return Result(**(given | more))


RESULTS = [
    make(1),
    make(
        2,
        state="verdict",
        label="overlay",
        decision="flag",
        score=0.1 + 0.2,
        calibrated=True,
        margin=-1.25,
        mass=0.75,
        scorer=SCORER,
        meta={"truth": "overlay", "n": 1},
        boxes=[{"x": 1}],
        box_problems=["a box has no four numbers"],
        scored_at=datetime(2026, 1, 2, tzinfo=UTC),
        reused=True,
    ),
    make(3, state="failed", failure=FailureInfo(stage="decode", reason="truncated", detail='he said "no"')),
]


def written(form: str, results: list[Result] = RESULTS) -> bytes:
    file = io.BytesIO()
    assert write_results(iter(results), file, form=form) == len(results)
    return file.getvalue()


def test_jsonl_and_json_hold_the_same_records() -> None:
    records = [as_record(result) for result in RESULTS]
    assert [json.loads(line) for line in written("jsonl").splitlines()] == records
    assert json.loads(written("json")) == records
    assert json.loads(written("json", [])) == []


def test_a_record_names_scorer_and_failure() -> None:
    _, verdict, failed = (as_record(result) for result in RESULTS)
    assert verdict["scorer"] == {
        "id": 3,
        "key": "k",
        "base_model": "pocket",
        "revision": "r1",
        "precision": "fp32",
        "adapter": "abc",
        "adapter_id": 2,
        "mode": "lora",
    }
    assert (verdict["score"], verdict["margin"], verdict["reused"]) == (0.1 + 0.2, -1.25, True)
    assert failed["failure"] == {"stage": "decode", "reason": "truncated", "detail": 'he said "no"'}
    assert failed["scorer"] is None


def test_csv_has_every_column_once_and_survives_odd_names() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv").decode(), newline="")))
    assert list(rows[0]) == [*COLUMNS, "meta_n", "meta_truth"]
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert [row["uri"] for row in rows] == [result.uri for result in RESULTS]
    assert float(rows[1]["score"]) == 0.1 + 0.2
    assert [row["meta_truth"] for row in rows] == ["", "overlay", ""]
    assert (rows[1]["meta_n"], rows[1]["meta"]) == ("1", "")
    assert rows[2]["failure_detail"] == 'he said "no"'
    assert (rows[1]["boxes"], rows[1]["box_problems"]) == ('[{"x": 1}]', '["a box has no four numbers"]')
    assert (rows[0]["box_problems"], rows[1]["scorer_mode"]) == ("", "lora")


def test_more_columns_than_a_table_should_have_stay_in_meta() -> None:
    wide = make(1, meta={f"c{number}": "x" for number in range(MAX_META_COLUMNS + 5)})
    (row,) = csv.DictReader(io.StringIO(written("csv", [wide]).decode(), newline=""))
    assert len(row) == len(COLUMNS) + MAX_META_COLUMNS
    assert len(json.loads(row["meta"])) == 5
