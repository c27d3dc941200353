"""docs/database.md: its SQL on SQLite, PostgreSQL and DuckDB over one ledger, and its tables of columns."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading
from scanfleet.db.tables import Failure, Image, Verdict
from scanfleet.db.views import VIEWS
from tests.rigs.questions_rig import Asked, ask, raw_rows

PAGE = (Path(__file__).parents[3] / "docs" / "database.md").read_text(encoding="utf-8")
QUESTION = re.compile(r"^### (\d+)\. .*?(?=^### |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```sql ?([\w ]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DATABASES = ("sqlite", "postgresql", "duckdb")


def _blocks() -> dict[int, dict[str, str]]:
    """Return by question and database: its SQL."""
    return {
        int(question[1]): {
            database: block[2] for block in BLOCK.finditer(question[0]) for database in (block[1].split() or DATABASES)
        }
        for question in QUESTION.finditer(PAGE)
    }


BLOCKS = _blocks()
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Ledgers:
    """The same ledger on both databases, and the views of the one on PostgreSQL in DuckDB."""

    by_name: dict[str, Asked]
    duck: duckdb.DuckDBPyConnection

    def answer(self, question: int, database: str) -> Rows:
        asked = self.by_name["postgresql" if database == "duckdb" else database]
        sql = asked.named(BLOCKS[question][database])
        if database == "duckdb":
            return [_plain(row) for row in self.duck.execute(sql).fetchall()]
        with reading(asked.engine) as connection:
            return [_plain(row) for row in connection.execute(sa.text(sql))]


def _plain(row: Any) -> tuple[Any, ...]:
    return tuple(_value(value) for value in row)


def _value(value: Any) -> Any:
    """Return a value as all three databases have it: times to the hour, in UTC, without their zone."""
    match value:
        case Decimal() | float():
            return round(float(value), 9)
        case dt.datetime():
            at = value if value.tzinfo is None else value.astimezone(dt.UTC)
            return f"{at:%Y-%m-%d}"
        case dt.date():
            return value.isoformat()
        case str() if re.match(r"20\d\d-\d\d-\d\d \d\d:", value):
            return value[:10]
        case list() | dict():
            return json.dumps(value, sort_keys=True)
        case str() if value.startswith("["):
            return json.dumps(json.loads(value), sort_keys=True)
    return value


@pytest.fixture(scope="module")
def ledgers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledgers]:
    folder = tmp_path_factory.mktemp("questions")
    urls = {
        "sqlite": f"sqlite:///{folder / 'scanfleet.db'}",
        "postgresql": request.getfixturevalue("postgres_server").fresh_database(),
    }
    with (
        ask(folder / "sqlite", urls["sqlite"]) as first,
        ask(folder / "postgresql", urls["postgresql"]) as second,
        closing(duckdb.connect()) as duck,
    ):
        duck.execute("set timezone = 'UTC'")
        for view in VIEWS:
            duck.register(view.name, _table(second.engine, view.name))
        yield Ledgers(by_name={"sqlite": first, "postgresql": second}, duck=duck)


def _table(engine: sa.Engine, view: str) -> pyarrow.Table:
    with reading(engine) as connection:
        rows = [dict(row._mapping) for row in connection.execute(sa.text(f"SELECT * FROM {view}"))]
    for row in rows:
        row |= {name: json.dumps(value) for name, value in row.items() if isinstance(value, dict | list)}
    return pyarrow.Table.from_pylist(rows)


def test_the_page_has_25_questions_for_each_database() -> None:
    assert sorted(BLOCKS) == list(range(1, 26))
    alone = {number: tuple(found) for number, found in BLOCKS.items() if set(found) != set(DATABASES)}
    assert alone == {17: ("duckdb",), 23: ("sqlite",)}


@pytest.mark.parametrize("number", [number for number in BLOCKS if number not in (17, 23)])
def test_a_question_has_the_same_answer_everywhere(ledgers: Ledgers, number: int) -> None:
    answers = {database: ledgers.answer(number, database) for database in DATABASES}
    # The ledgers differ in the ids of their scans.
    ids = {name: {value: key for key, value in ledgers.by_name[name].names.items()} for name in ledgers.by_name}
    ids["duckdb"] = ids["postgresql"]
    known = {
        database: Counter(tuple(ids[database].get(value, value) for value in row) for row in rows)
        for database, rows in answers.items()
    }
    if number == 7:  # an hour may have ended while a ledger was filled
        known = {database: _of_days(rows) for database, rows in known.items()}
    assert known["sqlite"], "the ledger holds nothing that answers it"
    assert known["sqlite"] == known["postgresql"] == known["duckdb"]


def _of_days(rows: Counter[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for (day, worker, images), n in rows.items():
        found[day, worker] += n * images
    return found


def test_the_parquet_of_duckdb_is_parted_by_day(ledgers: Ledgers, tmp_path: Path) -> None:
    sql = ledgers.by_name["postgresql"].named(BLOCKS[17]["duckdb"])
    ledgers.duck.execute(sql.replace("'results'", f"'{tmp_path / 'results'}'"))
    (found,) = ledgers.duck.execute(f"select count(*) from '{tmp_path}/results/day=*/*.parquet'").fetchall()
    assert found == (len(ledgers.answer(24, "postgresql")),)


def test_the_views_of_a_sqlite_file_are_found(ledgers: Ledgers) -> None:
    assert [row[0] for row in ledgers.answer(23, "sqlite")] == sorted(view.name for view in VIEWS)


def test_the_page_has_the_meaning_of_every_column() -> None:
    for view in VIEWS:
        table = "".join(f"| `{column.name}` | {column.about} |\n" for column in view.columns)
        assert f"### {view.name}\n\n{view.about}\n\n| column | meaning |\n|---|---|\n{table}\n" in PAGE


def standing(asked: Asked) -> list[Any]:
    """The raw rows of images of first scans with the verdicts that stand."""
    return [row for row in raw_rows(asked.engine) if row.rescan_of is None]


@pytest.mark.parametrize("database", DATABASES)
class TestFiguresFromRawRows:
    """The answers against figures that Python computes from the tables."""

    def asked(self, ledgers: Ledgers, database: str) -> Asked:
        return ledgers.by_name["postgresql" if database == "duckdb" else database]

    def test_flag_share(self, ledgers: Ledgers, database: str) -> None:
        flags: dict[tuple[str, str], list[bool]] = {}
        for row in standing(self.asked(ledgers, database)):
            if row.state == "verdict":
                day = dt.date.fromisoformat(row.meta["published"])
                monday = str(day - dt.timedelta(days=day.weekday()))
                flags.setdefault((row.meta["campaign"], monday), []).append(row.decision == "flag")
        wanted = [(*key, len(each), round(sum(each) / len(each), 9)) for key, each in sorted(flags.items())]
        assert ledgers.answer(1, database) == wanted

    def test_flips(self, ledgers: Ledgers, database: str) -> None:
        asked = self.asked(ledgers, database)
        with reading(asked.engine) as connection:
            said = dict(connection.execute(sa.select(Verdict.id, Verdict.decision)).tuples().all())
        renewed = [row for row in raw_rows(asked.engine) if row.scan_id == asked.names["RESCAN"] and row.replaced]
        wanted = [(row.uri, said[row.replaced], row.decision) for row in renewed if said[row.replaced] != row.decision]
        assert ledgers.answer(5, database) == sorted(wanted)

    def test_failures_and_what_was_never_scored(self, ledgers: Ledgers, database: str) -> None:
        asked = self.asked(ledgers, database)
        with reading(asked.engine) as connection:
            query = sa.select(Image.uri).join(Failure, Failure.image_id == Image.id)
            failed = connection.execute(query.where(Failure.scan_id == asked.names["SCAN"])).scalars().all()
        assert ledgers.answer(6, database) == [("fetch", "gone", "mem://a/", len(failed))]
        answered = {row.uri for row in standing(asked) if row.state == "verdict"}
        wanted = sorted({row.uri for row in standing(asked)} - answered)
        assert [row[1] for row in ledgers.answer(10, database)] == wanted

    def test_what_was_computed(self, ledgers: Ledgers, database: str) -> None:
        asked = self.asked(ledgers, database)
        with reading(asked.engine) as connection:
            query = sa.select(sa.func.count()).select_from(Verdict).where(Verdict.reused_from.is_(None))
            wanted = connection.execute(query).scalar_one()
        assert sum(row[2] for row in ledgers.answer(7, database)) == wanted
        assert {row[1] for row in ledgers.answer(7, database)} == {"w"}

    def test_precision(self, ledgers: Ledgers, database: str) -> None:
        asked = self.asked(ledgers, database)
        right = [asked.truth[uri] for _, uri, decision, *_ in ledgers.answer(9, database)
                 if decision == "flag" and uri in asked.truth]  # fmt: skip
        assert ledgers.answer(4, database) == [("overlay", len(right), round(sum(right) / len(right), 9))]

    def test_what_was_said_before_the_rescan(self, ledgers: Ledgers, database: str) -> None:
        asked = self.asked(ledgers, database)
        assert {row[0]: row[1] for row in ledgers.answer(25, database)} == asked.said_first
        now = {row.uri: row.decision for row in standing(asked) if row.uri in asked.said_first}
        assert now != asked.said_first
