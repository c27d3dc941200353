"""The views on SQLite and PostgreSQL: made as the code says, and right after rescans, retries and rollbacks."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from scanfleet.db import schema
from scanfleet.db.engine import reading, transaction
from scanfleet.db.pointers import check_pointers, count_dangling
from scanfleet.db.results import answers, verdicts
from scanfleet.db.results.results import Result, ResultFilter, iter_results
from scanfleet.db.scans import new_images, retries, scans
from scanfleet.db.tables import Batch, Image, Scan, Verdict
from scanfleet.db.training import champions
from scanfleet.db.views import VIEWS
from scanfleet.db.views.view import for_dialect, quoted
from scanfleet.errors import DanglingPointers
from tests.rigs.rescan_rig import Archive, archive, empty, uri

NAMES = [view.name for view in VIEWS]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("views")
    url = f"sqlite:///{folder / 'scanfleet.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_server").fresh_database()
    with archive(folder, database_url=url) as made:
        yield made


@pytest.fixture
def held(shared: Archive) -> Archive:
    empty(shared.engine)
    return shared


def rows(held: Archive, sql: str, **values: Any) -> list[dict[str, Any]]:
    with reading(held.engine) as connection:
        return [dict(row._mapping) for row in connection.execute(sa.text(sql), values)]


def of_sqlite(held: Archive) -> bool:
    return held.engine.dialect.name == "sqlite"


def definitions(connection: sa.Connection) -> dict[str, str]:
    if connection.dialect.name == "sqlite":
        sql = "SELECT name, sql FROM sqlite_master WHERE type = 'view'"
    else:
        sql = "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'"
    return dict(connection.execute(sa.text(sql)).tuples().all())


def test_the_migration_made_what_the_code_says(held: Archive) -> None:
    dialect = held.engine.dialect.name
    with held.engine.connect() as connection, connection.begin() as attempt:
        made = definitions(connection)
        for name in reversed(NAMES):
            connection.exec_driver_sql(f"DROP VIEW {name}")
        for view in VIEWS:
            connection.exec_driver_sql(for_dialect(view.sql, dialect))
        assert definitions(connection) == made
        assert set(made) == set(NAMES)
        attempt.rollback()


def test_postgresql_explains_every_column(held: Archive) -> None:
    if of_sqlite(held):
        pytest.skip("SQLite has no comments")
    sql = """SELECT c.relname, a.attname, col_description(c.oid, a.attnum) AS about FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relkind = 'v' AND a.attnum > 0 AND c.relname LIKE 'v\\_%'"""
    found = {(row["relname"], row["attname"]): row["about"] for row in rows(held, sql)}
    assert found == {(view.name, column.name): column.about for view in VIEWS for column in view.columns}


@pytest.fixture
def used(held: Archive) -> tuple[Archive, str, str]:
    """A scan that was rescanned in part, rolled back and rescanned; a failure of it was tried again. And its copy."""
    held.promote("first")
    gone = [uri(33), uri(17)]
    scan = held.scan(40, spread, failing=gone)
    held.promote("second")
    held.rescan(scan, band=1.0, audit=3)
    held.work(lambda name: spread(name) + 0.9)
    with transaction(held.engine) as connection:
        champions.roll_back(connection, held.check.name, "fake", who="ann", why="worse")
    held.rescan(scan, everything=True)
    held.work(spread)
    held.promote("third")
    held.rescan(scan, band=0.5, audit=0)
    held.work(lambda name: spread(name) - 0.7, failing=[uri(12)])
    with transaction(held.engine) as connection:
        assert retries.retry_failures(connection, scan) == 2
    held.work(spread, failing=gone[:1])
    copy = held.scan(10, spread)
    return held, scan, copy


def spread(name: str) -> float:
    return round((int(name[-5:]) % 31) * 0.2 - 3.0, 3)


def test_results_are_those_of_results_ls(used: tuple[Archive, str, str]) -> None:
    held, _, _ = used
    wanted = [_expected(result) for result in iter_results(held.engine, ResultFilter())]
    names = ", ".join(quoted(name) for name in wanted[0])
    found = rows(held, f"SELECT {names} FROM v_results ORDER BY image_id")
    assert [_plain(row) for row in found] == wanted
    assert len({row["scorer_id"] for row in found}) > 2


_SAME = (
    "image_id", "scan", "check", "model", "uri", "state", "label", "decision", "score", "calibrated", "margin", "mass",
    "unlike", "doubted", "reused", "content_sha256", "size", "width", "height",
)  # fmt: skip


def _expected(result: Result) -> dict[str, Any]:
    scorer, failure = result.scorer, result.failure
    return {name: getattr(result, name) for name in _SAME} | {
        "scored_at": result.scored_at and result.scored_at.isoformat(),
        "adapter_id": scorer and scorer.adapter_id,
        "scorer_id": scorer and scorer.id,
        "mode": scorer and scorer.mode,
        "failure_reason": failure and failure.reason,
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    at = row["scored_at"]
    if isinstance(at, str):
        at = f"{at.replace(' ', 'T')}+00:00"
    truths = {name: bool(row[name]) for name in ("calibrated", "reused")}
    return row | truths | {"scored_at": at.isoformat() if hasattr(at, "isoformat") else at}


def test_counts_are_those_of_scans_ls(used: tuple[Archive, str, str]) -> None:
    held, scan, copy = used
    with reading(held.engine) as connection:
        listed = {each.id: scans.progress(connection, each.id) for each in scans.list_scans(connection)}
    by_scan = {row["scan"]: row for row in rows(held, "SELECT * FROM v_scans")}
    assert {
        name: (row["images"], row["scored"], row["flagged"], row["review"], row["failed"], row["pending"])
        for name, row in by_scan.items()
    } == {
        name: (n.n_images, n.n_verdicts, n.n_flagged, n.n_review, n.n_failures, n.n_pending)
        for name, n in listed.items()
    }
    assert by_scan[scan]["flag_rate"] == pytest.approx(listed[scan].n_flagged / listed[scan].n_verdicts)
    decided = """SELECT scan, count(*) AS images, count(decision) AS scored,
        sum(CASE WHEN decision = 'flag' THEN 1 ELSE 0 END) AS flagged,
        sum(CASE WHEN decision = 'review' THEN 1 ELSE 0 END) AS review,
        sum(CASE WHEN state = 'failed' THEN 1 ELSE 0 END) AS failed FROM v_results GROUP BY scan"""
    for row in (found := rows(held, decided)):
        n = listed[row["scan"]]
        assert tuple(row.values())[1:] == (n.n_images, n.n_verdicts, n.n_flagged, n.n_review, n.n_failures)
    assert {row["scan"] for row in found} == {scan, copy}
    failed = {row["scan"]: row["n"] for row in rows(held, "SELECT scan, count(*) AS n FROM v_failures GROUP BY scan")}
    assert failed == {name: n.n_failures for name, n in listed.items() if n.n_failures}
    standing = rows(held, "SELECT scan, count(*) AS n FROM v_verdict_history WHERE stands GROUP BY scan")
    assert {row["scan"]: row["n"] for row in standing} == {name: listed[name].n_verdicts for name in (scan, copy)}


def test_the_history_has_every_verdict_under_its_image(used: tuple[Archive, str, str]) -> None:
    held, scan, _ = used
    found = rows(held, "SELECT * FROM v_verdict_history ORDER BY verdict_id")
    with reading(held.engine) as connection:
        query = sa.select(Verdict.id, sa.func.coalesce(Image.rescan_of, Image.id))
        query = query.join(Image, Image.id == Verdict.image_id).order_by(Verdict.id)
        assert [(row["verdict_id"], row["image_id"]) for row in found] == connection.execute(query).all()
    longest = [row for row in found if row["uri"] == uri(13) and row["scan"] == scan]
    assert [bool(row["stands"]) for row in longest] == [False, False, False, True]
    assert len({row["written_by_scan"] for row in longest}) == 4


def test_the_latest_is_the_newest_answer_of_each_uri(used: tuple[Archive, str, str]) -> None:
    held, _, copy = used
    found = {row["uri"]: row["scan"] for row in rows(held, "SELECT uri, scan FROM v_latest")}
    assert len(found) == 39
    assert {name for name, where in found.items() if where == copy} == {uri(number) for number in range(10)}


def test_a_copy_is_as_old_as_its_original(held: Archive) -> None:
    """Also where a release before wrote the copy, which did not know the time."""
    held.scan(4, spread)
    page = [new_images.NewImage(uri=uri(number), etag="1") for number in range(4)]
    with transaction(held.engine) as connection:
        again, _ = scans.open_scan(
            connection, check=held.check, model="fake", sources=["mem://b"], filters={}, fresh=True
        )
        new_images.add_images(connection, scan_id=again.id, queue="score.fake", images=page, batch_images=4)
    claim = held.must_claim()
    scorer = held.scorer(claim.check_id)
    with reading(held.engine) as connection:
        known = answers.answers_by_identity(connection, scorer, [image.identity for image in claim.images])
    copies = [
        answers.NewVerdict.reuse(known[image.identity], image_id=image.id, identity=image.identity)
        for image in claim.images
    ]
    with transaction(held.engine) as connection:
        verdicts.write(connection, claim, verdicts.Outcome(scorer_id=scorer, verdicts=copies, failures={}))
    query = f"SELECT uri, scored_at, written_at, reused, worker FROM v_results WHERE scan = '{again.id}' ORDER BY uri"
    originals = rows(held, f"SELECT uri, scored_at FROM v_results WHERE scan <> '{again.id}' ORDER BY uri")
    first = rows(held, query)
    assert [(row["uri"], row["scored_at"]) for row in first] == [tuple(row.values()) for row in originals]
    assert all(row["reused"] and row["written_at"] > row["scored_at"] and row["worker"] == "w" for row in first)
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Verdict).values(computed_at=None))
    assert rows(held, query) == first
    with reading(held.engine) as connection:
        times = dict(connection.execute(sa.select(Verdict.id, Verdict.created_at)).tuples().all())
        copied = sa.select(Verdict.reused_from, answers.scored_at()).where(Verdict.reused_from.is_not(None))
        for original, at in connection.execute(copied):
            assert at == times[original]
    latest = rows(held, "SELECT scan FROM v_latest")
    assert {row["scan"] for row in latest} == {again.id}


def test_the_trigger_times_every_change_and_no_other(held: Archive) -> None:
    """Whoever writes, code of a release before included: here, plain SQL."""
    scan = held.scan(2, spread, failing=[uri(1)])
    changed = "SELECT changed_at FROM v_results ORDER BY image_id"
    first = rows(held, changed)
    assert all(row["changed_at"] for row in first)
    times = rows(held, "SELECT written_at, changed_at FROM v_results WHERE state = 'verdict'")
    assert all(row["written_at"] == row["changed_at"] for row in times)  # a first answer has its own time
    with transaction(held.engine) as connection:
        connection.execute(sa.text("UPDATE images SET crashes = 1, seen_etag = 'x'"))
    assert rows(held, changed) == first
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Image).values(changed_at=None))
        connection.execute(sa.text("UPDATE images SET state = 'verdict' WHERE state = 'pending'"))
        assert connection.execute(sa.select(Image.changed_at).where(Image.changed_at.is_not(None))).all() == []
        connection.execute(sa.text("UPDATE images SET state = 'cancelled' WHERE state = 'failed'"))
        new_images.add_images(
            connection, scan_id=scan, queue="q", images=[new_images.NewImage(uri=uri(7))], batch_images=1
        )
    assert [row["changed_at"] is not None for row in rows(held, changed)] == [True, True, False]
    later = rows(held, "SELECT written_at, changed_at FROM v_results ORDER BY image_id")
    assert later[0]["changed_at"] == later[0]["written_at"] < later[1]["changed_at"]
    with transaction(held.engine) as connection:
        connection.execute(sa.text(f"UPDATE images SET verdict_id = verdict_id WHERE uri = '{uri(0)}'"))
    assert rows(held, changed)[0]["changed_at"] > later[1]["changed_at"]
    (newest,) = rows(held, f"SELECT changed_at FROM v_results WHERE uri = '{uri(0)}'")
    again = "SELECT uri FROM v_results WHERE changed_at >= :since"
    assert [row["uri"] for row in rows(held, again, since=newest["changed_at"])] == [uri(0)]


def test_the_pointers_are_checked(held: Archive) -> None:
    held.promote("first")
    scan = held.scan(6, spread)
    held.promote("second")
    rescan = held.rescan(scan, everything=True)
    held.work(spread)
    check_pointers(held.engine)
    with transaction(held.engine) as connection:  # F3: a rescan deleted by hand takes the answers with it
        connection.execute(sa.delete(Verdict).where(Verdict.scan_id == rescan))
        connection.execute(sa.delete(Image).where(Image.scan_id == rescan))
        connection.execute(sa.delete(Batch).where(Batch.scan_id == rescan))
    with pytest.raises(DanglingPointers, match=r"6 of images\.verdict_id: ") as caught:
        check_pointers(held.engine)
    assert caught.value.exit_code == 28
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Image).values(verdict_id=None, replaced=99, rescan_of=99))
        connection.execute(sa.update(Verdict).values(reused_from=99))
        connection.execute(sa.update(Scan).values(rescan_of="gone"))
        found = count_dangling(connection)
    assert found == {
        "images.replaced": 6, "images.rescan_of": 6, "verdicts.reused_from": 6, "scans.rescan_of": 2
    }  # fmt: skip


def test_an_older_ledger_keeps_its_rows(held: Archive) -> None:
    """On the way back and forth: times of changes are found again, and JSON that jsonb refuses is made fit for it."""
    scan = held.scan(3, spread, failing=[uri(1)])
    before = rows(held, "SELECT state, meta FROM v_results ORDER BY image_id")
    with transaction(held.engine, long=True) as connection:
        command.downgrade(schema._config(connection), "0013")
        odd = json.dumps({"n": "a\0\0b", "path": "c:\\u0000"})
        if not of_sqlite(held):
            given = sa.text(f"UPDATE images SET meta = CAST(:odd AS json) WHERE uri = '{uri(2)}'")
            connection.execute(given, {"odd": odd})
    schema.upgrade(held.engine)
    found = rows(held, "SELECT state, meta, changed_at, written_at, failed_at FROM v_results ORDER BY image_id")
    assert [(row["state"], row["meta"]) for row in found[:2]] == [(row["state"], row["meta"]) for row in before[:2]]
    assert all(row["changed_at"] == (row["written_at"] or row["failed_at"]) for row in found)
    if not of_sqlite(held):
        assert found[2]["meta"] == {"n": "ab", "path": "c:\\u0000"}
    assert held.progress(scan).n_verdicts == 2
