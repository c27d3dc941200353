"""Tables of results from either database: the same cells whichever way they are written, and types that survive."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scanfleet.db.engine import transaction
from scanfleet.db.results.pages import iter_pages
from scanfleet.db.results.results import ResultFilter, iter_results
from scanfleet.db.tables import Image
from scanfleet.errors import UnknownName
from scanfleet.producer.reports.export import COLUMNS as ROW_COLUMNS
from scanfleet.producer.reports.export import write_results
from scanfleet.producer.reports.exports.columns import COLUMNS, MAX_META_COLUMNS, open_table
from scanfleet.producer.reports.exports.formats import Export
from scanfleet.producer.reports.exports.parquet import FIELD_NAME
from tests.rigs.results_rig import BOX, CROP, FIRST, fill

TYPED = [
    {"price": 9, "id": 7, "paid": True, "tags": ["a"], "name": "ü", "big": 2**53 + 1, "huge": 2**70, "none": None},
    {"price": 10.5, "id": -(2**63), "paid": False, "tags": ["b"], "name": 'say "x",\r\ny', "big": 1, "huge": 1},
    {"price": None, "mixed": 1, "float and long": 2**60},
    {"mixed": "1", "float and long": 0.5},
    None,
    {},
]


def exported(engine: sa.Engine, form: str, wanted: ResultFilter | None = None, **more: Any) -> io.BytesIO:
    file = io.BytesIO()
    n = Export(engine=engine, wanted=wanted or ResultFilter(), form=form, **more).write(file)
    file.seek(0)
    if form == "parquet":
        assert pq.read_table(file).num_rows == n
        file.seek(0)
    return file


def row_by_row(engine: sa.Engine, form: str = "csv", wanted: ResultFilter | None = None, **more: Any) -> bytes:
    file = io.BytesIO()
    write_results(iter_results(engine, wanted or ResultFilter()), file, form=form, **more)
    return file.getvalue()


def test_both_ways_of_writing_have_the_same_columns() -> None:
    assert COLUMNS == ROW_COLUMNS


@pytest.mark.parametrize("spreadsheet", [False, True])
def test_csv_has_the_bytes_of_the_writer_of_rows(engine: sa.Engine, spreadsheet: bool) -> None:
    fill(engine, [meta and meta | {"f": "=1+1"} for meta in TYPED])
    written = exported(engine, "csv", spreadsheet=spreadsheet).getvalue()
    assert written == row_by_row(engine, spreadsheet=spreadsheet)
    assert written.count(b"'=1+1") == (4 if spreadsheet else 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=2), children, max_size=2),
    max_leaves=3,
)
odd_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def without_nul(value: Any) -> bool:
    return "\\u0000" not in json.dumps(value)


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metas=st.lists(
        st.dictionaries(st.sampled_from(["a", "A", "a b", "ä,", '"', "\n"]), json_values, max_size=4).filter(
            without_nul
        ),
        min_size=3,
        max_size=5,
    ),
    uri=odd_text,
)
def test_the_bytes_are_those_of_rows_whatever_the_names(engine: sa.Engine, metas: list[Any], uri: str) -> None:
    scan = fill(engine, metas, uri=uri.replace("{", "").replace("}", "") + "{}")
    wanted = ResultFilter(scan=scan)
    for form in ("csv", "jsonl"):
        assert exported(engine, form, wanted).getvalue() == row_by_row(engine, form, wanted)
    exported(engine, "parquet", wanted)


def test_parquet_keeps_the_types_of_the_manifest(engine: sa.Engine) -> None:
    fill(engine, TYPED)
    table = pq.read_table(exported(engine, "parquet"))
    kinds = {field.name: str(field.type) for field in table.schema if field.name.startswith("meta_")}
    assert kinds == {
        "meta_big": "int64", "meta_huge": "string", "meta_id": "int64", "meta_mixed": "string", "meta_name": "string",
        "meta_none": "string", "meta_paid": "bool", "meta_price": "double", "meta_tags": "string",
        "meta_float_and_long": "string",
    }  # fmt: skip
    assert table.schema.field("meta_float_and_long").metadata[FIELD_NAME] == b"float and long"
    found = {name: table.column(name).to_pylist()[:3] for name in table.column_names}
    assert found["meta_price"] == [9.0, 10.5, None]
    assert (found["meta_id"], found["meta_big"]) == ([7, -(2**63), None], [2**53 + 1, 1, None])
    assert found["meta_huge"] == [str(2**70), "1", None]
    assert found["meta_tags"] == ['["a"]', '["b"]', None]
    assert table.column("meta").null_count == table.num_rows


def test_parquet_keeps_the_types_of_the_fixed_columns(engine: sa.Engine) -> None:
    fill(engine)
    table = pq.read_table(exported(engine, "parquet"))
    second = {name: table.column(name)[1].as_py() for name in table.column_names}
    assert second["boxes"] == [BOX, BOX | {"label": "añ 'x'"}]
    assert second["crop_box"] == dict(zip(("x0", "y0", "x1", "y1"), CROP.box or (), strict=True))
    assert (second["notes"], second["box_problems"], second["doubted"]) == (["on black"], ["no four numbers"], "flag")
    assert table.column("scored_at")[0].as_py() == FIRST
    assert table.schema.field("scored_at").type == pa.timestamp("us", tz="UTC")
    assert table.column("boxes").to_pylist()[2] == []
    assert table.column("calibrated").to_pylist() == [True, True, False, True, False, False]
    words = {field.name for field in table.schema if pa.types.is_dictionary(field.type)}
    assert {"scan", "check", "model", "label", "decision", "state", "scorer_mode", "scorer_key"} <= words


def test_other_programs_read_it(engine: sa.Engine, tmp_path: Any) -> None:
    fill(engine, [{"price": 9.5, "day": "2026-11-30"}, {"price": 159}, {"price": 14}, None, None, None])
    path = tmp_path / "x.parquet"
    path.write_bytes(exported(engine, "parquet").getvalue())
    query = f"""select count(*) filter (meta_price > 9.5), max(meta_price), max(date_trunc('day', scored_at)),
        max(boxes[1].x1), count(distinct decision) from '{path}'"""
    above, top, day, side, decisions = duckdb.sql(query).fetchall()[0]
    assert (above, top, side, decisions) == (2, 159.0, 9.25, 3)
    assert day.date().isoformat() == "2026-12-02"
    frame = pd.read_parquet(path)
    assert str(frame["scored_at"].dtype) == "datetime64[us, UTC]"
    assert frame.groupby("decision", observed=True)["meta_price"].sum().to_dict() == {
        "flag": 9.5, "review": 159.0, "clear": 14.0
    }  # fmt: skip


def test_the_schema_is_that_of_all_rows_and_nothing_is_lost(engine: sa.Engine) -> None:
    fill(engine, [{"a": 1}] * 6)
    bare = pq.read_schema(exported(engine, "parquet"))
    fill(engine, [*({"a": 1},) * 5, {"late": [1], "a": 1}])
    both = pq.read_schema(exported(engine, "parquet"))
    assert both.names == [*bare.names, "meta_late"]
    assert list(both)[: len(bare)] == list(bare)
    assert bare.names == [*COLUMNS, "meta_a"]
    none = pq.read_schema(exported(engine, "parquet", ResultFilter(scan="other")))
    assert list(none) == list(bare)[: len(COLUMNS)]


def test_what_comes_while_it_is_written_stays_in_meta(engine: sa.Engine) -> None:
    fill(engine, [{"n": 1, "flag": True, "x": 0.5}] * 6)
    table = open_table(engine, ResultFilter())
    with transaction(engine) as connection:
        connection.execute(
            sa.update(Image).where(Image.id == 2).values(meta={"n": "two", "flag": 1, "x": 2**60, "new": 3})
        )
        connection.execute(sa.update(Image).where(Image.id == 3).values(meta={"n": 1, "flag": True, "x": True}))
    (page,) = table.pages()
    values = {column.name: list(column.values(page)) for column in table.columns}
    assert [values[f"meta_{name}"][:3] for name in ("n", "flag", "x")] == [
        [1, None, 1],
        [True, None, True],
        [0.5, None, None],
    ]
    assert values["meta"][:3] == [None, {"n": "two", "flag": 1, "x": 2**60, "new": 3}, {"x": True}]


def test_the_fields_that_most_images_have_get_columns(engine: sa.Engine) -> None:
    wide = {f"c{number:03}": "x" for number in range(MAX_META_COLUMNS + 5)}
    fill(engine, [wide, {"c203": 1, "c204": 1}, None, None, None])
    table = pq.read_table(exported(engine, "parquet"))
    assert table.num_columns == len(COLUMNS) + MAX_META_COLUMNS
    assert {"meta_c203", "meta_c204", "meta_c000", "meta_c197"} <= set(table.column_names)
    assert json.loads(table.column("meta")[0].as_py()) == dict.fromkeys(["c198", "c199", "c200", "c201", "c202"], "x")


def test_chosen_columns_come_in_their_order_and_no_other_is_read(engine: sa.Engine) -> None:
    fill(engine, TYPED)
    header, *rows = csv.reader(io.TextIOWrapper(exported(engine, "csv", columns=["meta_name", "uri"]), newline=""))
    assert header == ["meta_name", "uri"]
    assert rows[1] == ['say "x",\r\ny', "s3://B/001.jpg"]
    (page,) = iter_pages(engine, ResultFilter(), names=("uri",))
    assert set(page) == {"image_id", "uri"}
    with pytest.raises(UnknownName, match=r"no column nmae: .*\bmeta_name"):
        exported(engine, "csv", columns=["nmae", "meta_x"])


def test_old_names_are_kept_on_demand(engine: sa.Engine) -> None:
    fill(engine, [{"unit price": 1}] * 6)
    assert pq.read_schema(exported(engine, "parquet", dotted=True)).names[-1] == "meta.unit price"


@pytest.mark.parametrize(("limit", "sizes"), [(None, [4, 2]), (4, [4]), (5, [4, 1]), (6, [4, 2])])
def test_pages_hold_every_image_once(engine: sa.Engine, limit: int | None, sizes: list[int]) -> None:
    fill(engine)
    pages = list(iter_pages(engine, ResultFilter(), page_images=4, limit=limit))
    assert [len(page["image_id"]) for page in pages] == sizes
    ids = [number for page in pages for number in page["image_id"]]
    assert ids == sorted(set(ids))


def test_one_page_is_read_ahead_and_no_more(engine: sa.Engine) -> None:
    fill(engine, [None] * 40)
    n_read = 0

    @sa.event.listens_for(engine, "after_cursor_execute")
    def count(_: Any, __: Any, statement: str, *more: Any) -> None:
        nonlocal n_read
        n_read += "LIMIT" in statement

    pages: Iterator[Any] = iter_pages(engine, ResultFilter(), page_images=2)
    for _ in range(3):
        next(pages)
    pages.close()  # type: ignore[attr-defined]
    assert 3 <= n_read <= 4
