"""Results as lines: every format says the same."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scanfleet.db.results.results import FailureInfo, Result, ScorerInfo
from scanfleet.producer.reports.export import COLUMNS, MAX_META_COLUMNS, META_ROWS, as_record, write_results

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
    assert list(rows[0]) == [*COLUMNS, "meta.truth", "meta.n"]
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert [row["uri"] for row in rows] == [result.uri for result in RESULTS]
    assert float(rows[1]["score"]) == 0.1 + 0.2
    assert [row["meta.truth"] for row in rows] == ["", "overlay", ""]
    assert (rows[1]["meta.n"], rows[1]["meta"]) == ("1", "")
    assert rows[2]["failure_detail"] == 'he said "no"'
    assert (rows[1]["boxes"], rows[1]["box_problems"]) == ('[{"x": 1}]', '["a box has no four numbers"]')
    assert (rows[0]["box_problems"], rows[1]["scorer_mode"]) == ("", "lora")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_that_turns_up_late_stays_in_meta_and_nothing_is_read_ahead(form: str) -> None:
    n_read = 0

    def stream() -> Iterator[Result]:
        nonlocal n_read
        for n_read in range(1, 2 * META_ROWS + 1):
            late = {"late": [n_read]} if n_read > META_ROWS else {}
            yield make(n_read, meta={"truth": f"t{n_read}", **late})

    class Watched(io.BytesIO):
        n_read_at_first_byte = 0

        def write(self, data: Any) -> int:
            self.n_read_at_first_byte = self.n_read_at_first_byte or n_read
            return super().write(data)

    file = Watched()
    write_results(stream(), file, form=form)
    assert file.n_read_at_first_byte <= META_ROWS
    if form == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(file.getvalue().decode(), newline="")))
    else:
        rows = pq.read_table(io.BytesIO(file.getvalue())).to_pylist()
    assert [row["meta.truth"] for row in rows] == [f"t{n}" for n in range(1, 2 * META_ROWS + 1)]
    assert "meta.late" not in rows[0]
    assert json.loads(rows[-1]["meta"]) == {"late": [2 * META_ROWS]}


def test_more_columns_than_a_table_should_have_stay_in_meta() -> None:
    wide = make(1, meta={f"c{number}": "x" for number in range(MAX_META_COLUMNS + 5)})
    (row,) = csv.DictReader(io.StringIO(written("csv", [wide]).decode(), newline=""))
    assert len(row) == len(COLUMNS) + MAX_META_COLUMNS
    assert len(json.loads(row["meta"])) == 5


def test_parquet_keeps_types_even_when_all_values_are_missing() -> None:
    table = pq.read_table(io.BytesIO(written("parquet")))
    assert table.column_names == [*COLUMNS, "meta.truth", "meta.n"]
    assert table.column("meta.truth").to_pylist() == [None, "overlay", None]
    assert table.column("score").to_pylist() == [None, 0.1 + 0.2, None]
    bare = pq.read_schema(io.BytesIO(written("parquet", [RESULTS[0]])))
    assert bare == pa.schema(list(pq.read_schema(io.BytesIO(written("parquet"))))[: len(COLUMNS)])
    assert pq.read_table(io.BytesIO(written("parquet", []))).num_rows == 0
