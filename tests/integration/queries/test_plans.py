"""How the databases find the answers to people's questions: by indexes, never by reading all images or verdicts."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from bench.query import READ_ALL
from bench.query.archive import Archive, fill
from bench.query.commands import VIEWS, commands
from bench.query.server import MeasuredServer
from scanfleet.config.settings import load_settings
from scanfleet.db.drift.reference import alarms_of_scan
from scanfleet.db.engine import connect, reading
from scanfleet.db.queries.history import history_of
from scanfleet.db.queries.listing import first_results, top_results
from scanfleet.db.results.filters import ResultFilter
from scanfleet.db.results.results import iter_results
from scanfleet.db.scans.scans import list_progress
from scanfleet.producer.cli.main import main
from scanfleet.producer.reports.summary import summarise
from tests.rigs.asked_rig import Asked

IMAGES = 200_000
WHOLE = re.compile(r"(?<!Bitmap )(?:Parallel )?Seq Scan on (?:images|verdicts)\b")
SAMPLE = (
    "verdicts.scorer_id + "  # for drift, of up to 256 batches: a tenth of this archive, which is soonest read whole
)
# Folders with more than FEW names, of which the oldest are wanted, and decisions that two scorers agree about.
WALKS = ("results ls --prefix small", "labels suggest", "labels suggest --scan big")


@contextlib.contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Collect what is sent to any database meanwhile, with its parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if re.match(r"\s*(select|with)\b", statement, re.IGNORECASE):
            sent.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


@pytest.fixture(scope="module")
def large() -> Iterator[tuple[str, Archive]]:
    with MeasuredServer() as server:
        url = server.measured_database()
        yield url, fill(url, IMAGES)


def names() -> list[str]:
    return [name for name in commands(Archive(n=1, n_small=1)) if name not in (*READ_ALL, *WALKS)]


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_no_command_reads_all_images_or_verdicts(
    large: tuple[str, Archive], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, archive = large
    monkeypatch.setenv("SCANFLEET_DATABASE_URL", url)
    monkeypatch.setenv("SCANFLEET_DATA_DIR", str(tmp_path))
    said = io.TextIOWrapper(io.BytesIO())
    with statements() as sent, contextlib.redirect_stdout(said):
        assert main([part.replace("FOLDER", str(tmp_path)) for part in commands(archive)[name]]) in (0, 2, 17)
    assert sent
    for statement, parameters in sent:
        if SAMPLE in statement:
            continue
        assert not WHOLE.search(plan := explained(url, statement, parameters)), f"{statement}\n{plan}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VIEWS if name != "v_scans"])
def test_no_look_up_in_a_view_reads_all_images_or_verdicts(large: tuple[str, Archive], name: str) -> None:
    url, archive = large
    query = re.sub(r":(\w+)", r"%(\1)s", VIEWS[name])
    values = {"uri": archive.uri, "small": archive.small, "big": archive.big}
    assert not WHOLE.search(plan := explained(url, query, values)), plan


def explained(url: str, statement: str, parameters: Any) -> str:
    with psycopg.connect(url.replace("+psycopg", ""), prepare_threshold=None) as connection:
        rows = connection.execute(f"explain {statement}".encode(), parameters).fetchall()
    return "\n".join(row[0] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted",
    [
        ResultFilter(min_score=0.9994),
        ResultFilter(scan="bigscans", min_score=0.999, max_score=0.9995),
        ResultFilter(scan="runscans", state="pending"),
        ResultFilter(state="cancelled"),
        ResultFilter(decision="review", min_score=0.99),
        ResultFilter(scan="midscans", label="natural", where=(("campaign", "c17"),)),
    ],
)
def test_the_first_of_many_are_those_of_a_walk(large: tuple[str, Archive], wanted: ResultFilter) -> None:
    engine = connect(load_settings(database_url=large[0], model="fake"))
    every = list(iter_results(engine, wanted))
    assert first_results(engine, wanted, limit=150) == every[:150]
    with reading(engine) as connection:
        best = sorted(every, key=lambda each: (each.score is None, -(each.score or 0.0), each.image_id))
        assert top_results(connection, wanted, limit=150) == best[:150]
    engine.dispose()


ASKED: dict[str, Callable[[sa.Engine, Asked], object]] = {
    "scans show": lambda engine, held: summarise(engine, held.scan),
    "results ls --scan": lambda engine, held: first_results(engine, ResultFilter(scan=held.scan), limit=5),
    "--state failed": lambda engine, held: first_results(engine, ResultFilter(state="failed"), limit=5),
    "--decision flag": lambda engine, held: first_results(
        engine, ResultFilter(scan=held.scan, decision="flag"), limit=5
    ),
    "--prefix": lambda engine, _: first_results(engine, ResultFilter(prefix="mem://a/"), limit=5),
    "results show": lambda engine, _: list(iter_results(engine, ResultFilter(uri="mem://a/00001"))),
}
IN_ONE_READ: dict[str, Callable[[sa.Connection, Asked], object]] = {
    "scans ls": lambda connection, _: list_progress(connection),
    "results history": lambda connection, _: history_of(connection, "mem://a/00001"),
    "alarms": lambda connection, held: alarms_of_scan(connection, "overlay", held.scan),
}


@pytest.mark.parametrize("name", [*ASKED, *IN_ONE_READ])
def test_sqlite_finds_them_by_indexes_too(held: Asked, name: str) -> None:
    engine = held.archive.engine
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL plans by the size of tables: the tests above have a large archive")
    with statements() as sent:
        if name in ASKED:
            ASKED[name](engine, held)
        else:
            with reading(engine) as connection:
                IN_ONE_READ[name](connection, held)
    assert sent
    with engine.connect() as connection:
        for statement, parameters in sent:
            plan = [row[3] for row in connection.exec_driver_sql(f"explain query plan {statement}", parameters)]
            assert not [line for line in plan if re.match(r"SCAN (images|verdicts)\b", line)], f"{statement}\n{plan}"
