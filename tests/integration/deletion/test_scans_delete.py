"""`scanfleet scans delete`, on SQLite and PostgreSQL: what goes, what stays where it stands, and what is refused."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.db.deletion import removal
from scanfleet.db.deletion.removal import Removed
from scanfleet.db.engine import transaction
from scanfleet.db.results import verdicts
from scanfleet.db.results.rescan_changes import iter_flips
from scanfleet.db.scans import new_images, retries, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Failure, Image, Scan, Verdict
from scanfleet.db.training import champions
from scanfleet.errors import RequestError
from scanfleet.producer.deletion.scans import delete_scan, plan_deletion
from tests.helpers.cli_call import scanfleet
from tests.rigs.deletion_rig import copy_answers, faults, rows
from tests.rigs.rescan_rig import Archive, uri


def spread(name: str) -> float:
    return round((int(name[-5:]) % 31) * 0.2 - 3.0, 3)


def shifted(name: str) -> float:
    return spread(name) + 0.5


def delete(held: Archive, *names: str) -> Removed:
    done = Removed()
    for each in plan_deletion(held.engine, names, older_than=None):
        for page in delete_scan(held.engine, each.scan.id):
            done += page
            assert faults(held.engine) == []
    assert faults(held.engine) == []
    return done


def scan_ids(held: Archive) -> set[str]:
    return {row.id for row in rows(held.engine, Scan)}


def test_a_scan_goes_with_all_its_rows_and_no_other_does(held: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanfleet.producer.deletion.scans.PAGE_IMAGES", 5)  # cuts batches
    held.promote("one")
    first = held.scan(31, spread, failing=[uri(3)])
    second = held.scan(12, spread)
    before = held.images(second)
    done = delete(held, first)
    assert (done.n_images, done.n_verdicts, done.n_kept) == (31, 30, 0)
    assert scan_ids(held) == {second}
    assert held.images(second) == before
    assert rows(held.engine, Failure) == []
    assert {row.scan_id for row in rows(held.engine, Batch)} == {second}


def test_the_answers_of_a_rescan_stay_when_it_goes(held: Archive) -> None:
    held.promote("one")
    root = held.scan(31, spread)
    held.promote("two")
    rescan = held.rescan(root, band=0.5, audit=0)
    held.work(shifted)
    before, progress = held.images(root), held.progress(root)
    done = delete(held, rescan)
    assert done.n_kept == done.n_images == len({name for name, row in before.items() if row.margin == shifted(name)})
    assert held.images(root) == before
    assert held.progress(root) == progress
    assert scan_ids(held) == {root}
    assert len(rows(held.engine, Verdict)) == 31 + done.n_kept  # the earlier answers are kept, too
    assert {row.scan_id for row in rows(held.engine, Verdict)} == {root}


def test_an_answer_by_the_scorer_that_answered_first_takes_the_place_of_that_one(held: Archive) -> None:
    """After a rollback a rescan answers with the scorer of the first scan: an image has one verdict of each."""
    held.promote("one")
    root = held.scan(4, spread)
    held.promote("two")
    forth = held.rescan(root, everything=True)
    held.work(shifted)
    with transaction(held.engine) as connection:
        champions.roll_back(connection, held.check.name, "fake", why="worse", who=None)
    back = held.rescan(root, everything=True)
    copy_answers(held, root, lambda name: spread(name) + 0.01)
    stood = {flip.uri: flip.old.margin for flip in iter_flips(held.engine, forth)}
    before = held.images(root)
    assert delete(held, back).n_kept == 4
    assert held.images(root) == before
    assert len(rows(held.engine, Verdict)) == 8  # one of each scorer; those of `two` belong to its rescan
    again = {flip.uri: flip.old.margin for flip in iter_flips(held.engine, forth)}
    assert again.keys() >= stood.keys()
    assert delete(held, forth).n_kept == 0
    assert {row.margin for row in rows(held.engine, Verdict)} == {spread(name) + 0.01 for name in before}


def test_a_rescan_between_two_goes_and_the_later_one_replaced_what_stood_before_it(held: Archive) -> None:
    held.promote("one")
    root = held.scan(6, lambda _: -2.0)
    held.promote("two")
    middle = held.rescan(root, everything=True)
    held.work(lambda _: 0.0)
    held.promote("three")
    last = held.rescan(root, everything=True)
    held.work(lambda _: 2.0)
    assert {flip.old.margin for flip in iter_flips(held.engine, last)} == {0.0}
    assert delete(held, middle).n_kept == 0
    assert {(flip.old.margin, flip.new.margin) for flip in iter_flips(held.engine, last)} == {(-2.0, 2.0)}
    assert len(list(iter_flips(held.engine, last))) == 6


def test_a_scan_takes_its_rescans_along_and_names_them(held: Archive) -> None:
    held.promote("one")
    root = held.scan(31, spread)
    held.promote("two")
    rescan = held.rescan(root, everything=True)
    held.work(shifted)
    planned = plan_deletion(held.engine, [root], older_than=None)
    assert [(each.scan.id, each.named) for each in planned] == [(rescan, False), (root, True)]
    delete(held, root)
    for table in (Scan, Batch, Image, Verdict):
        assert rows(held.engine, table) == []


def test_a_copy_stands_by_itself_when_the_first_answer_goes(held: Archive) -> None:
    held.promote("one")
    first = held.scan(4, spread)
    copies = [held.scan(0, spread) for _ in range(2)]
    for scan_id in copies:
        with transaction(held.engine) as connection:
            page = [_like(row) for row in held.images(first).values()]
            _add(connection, scan_id, page)
    copy_answers(held, first, spread)
    seen = [{name: row.margin for name, row in held.images(scan_id).items()} for scan_id in copies]
    given = {row.created_at for row in rows(held.engine, Verdict, Verdict.scan_id == first)}
    with transaction(held.engine) as connection:  # as a worker of an older release writes them
        connection.execute(sa.update(Verdict).where(Verdict.scan_id != first).values(computed_at=None))
    delete(held, first)
    assert {row.computed_at for row in rows(held.engine, Verdict)} == given
    left = rows(held.engine, Verdict)
    heirs = {row.id for row in left if row.scan_id == copies[0]}
    assert {row.reused_from for row in left} == heirs  # the first copy names itself
    assert [held.progress(scan_id).n_reused for scan_id in copies] == [4, 4]
    assert [{name: row.margin for name, row in held.images(scan_id).items()} for scan_id in copies] == seen
    delete(held, copies[0])
    assert all(row.reused_from == row.id for row in rows(held.engine, Verdict))


def test_what_was_copied_while_its_source_went_is_written(held: Archive) -> None:
    """A worker that looked an answer up writes it after the scan that gave it is gone."""
    held.promote("one")
    first = held.scan(4, spread)
    verdict = held.images(first)[uri(0)].verdict_id
    second = held.scan(0, spread)
    with transaction(held.engine) as connection:
        _add(connection, second, [_like(row) for row in held.images(first).values()])
    claim = held.must_claim()
    known = held.outcome(claim, spread, reused_from=verdict)
    delete(held, first)
    with transaction(held.engine) as connection:
        verdicts.write(connection, claim, known)
    assert faults(held.engine) == []
    assert held.progress(second).n_reused == len(claim.images) == 2


def _like(row: Any) -> NewImage:
    return NewImage(uri=row.uri, etag=row.etag)


def _add(connection: sa.Connection, scan_id: str, page: Sequence[NewImage]) -> None:
    scan = scans.get_scan(connection, scan_id)
    new_images.add_images(connection, scan_id=scan_id, queue=scan.queue, images=page, batch_images=2)
    connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(state="running", finished_at=None))


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_scan_that_runs_is_refused_by_name(held: Archive, state: str) -> None:
    root = held.scan(4, spread)
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Scan).values(state=state, finished_at=None))
    with pytest.raises(RequestError, match=f"{root}.*cancel"):
        plan_deletion(held.engine, [root], older_than=None)
    with pytest.raises(RequestError, match=root):  # reopened since it was planned
        list(delete_scan(held.engine, root))
    assert len(rows(held.engine, Image)) == 4


def test_nothing_is_added_to_a_scan_that_is_being_deleted(held: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanfleet.producer.deletion.scans.PAGE_IMAGES", 3)
    root = held.scan(12, spread, failing=[uri(11)])
    next(delete_scan(held.engine, root))
    assert held.progress(root).n_images == 9
    with pytest.raises(RequestError), transaction(held.engine) as connection:
        retries.retry_failures(connection, root)
    assert faults(held.engine) == []
    delete(held, root)
    assert scan_ids(held) == set()


def test_by_age_a_scan_goes_once_its_rescans_are_as_old(held: Archive) -> None:
    held.promote("one")
    old, renewed, new = (held.scan(3, spread) for _ in range(3))
    held.promote("two")
    held.rescan(renewed, everything=True)
    held.work(shifted)
    long_ago = datetime.now(UTC) - timedelta(days=100)
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Scan).where(Scan.id.in_((old, renewed))).values(finished_at=long_ago))
    planned = plan_deletion(held.engine, [], older_than=timedelta(days=90))
    assert [each.scan.id for each in planned] == [old]
    assert plan_deletion(held.engine, [new], older_than=timedelta(days=90)) == []
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Scan).where(Scan.rescan_of == renewed).values(finished_at=long_ago))
    ids = {each.scan.id for each in plan_deletion(held.engine, [], older_than=timedelta(days=90))}
    assert ids == scan_ids(held) - {new}


KILLED = """
import os, signal, sys
from itertools import islice
from pathlib import Path
from scanfleet.producer.deletion import scans as deletion
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect
deletion.PAGE_IMAGES = 5
engine = connect(load_settings(database_url=sys.argv[1], data_dir=Path(sys.argv[2])))
for _ in islice(deletion.delete_scan(engine, sys.argv[3]), int(sys.argv[4])):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("pages", [1, 3])
def test_killed_between_two_pages_it_goes_on(held: Archive, pages: int) -> None:
    held.promote("one")
    root = held.scan(31, spread)
    held.promote("two")
    rescan = held.rescan(root, everything=True)
    held.work(shifted)
    answers = held.margins(root)
    settings = held.settings
    url = settings.database_url.get_secret_value() if settings.database_url else settings.database
    command = [sys.executable, "-P", "-c", KILLED, url, str(settings.data_dir), rescan, str(pages)]
    killed = subprocess.run(command, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert faults(held.engine) == []
    assert held.progress(rescan).n_images == 31 - 5 * pages
    assert held.margins(root) == answers
    delete(held, rescan)
    assert held.margins(root) == answers
    assert scan_ids(held) == {root}


def test_a_page_touches_no_more_rows_than_it_may(held: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanfleet.producer.deletion.scans.PAGE_IMAGES", 4)
    root = held.scan(31, spread)
    taken: list[int] = []
    real = removal.remove_images

    def counted(connection: sa.Connection, image_ids: Sequence[int]) -> Removed:
        taken.append(len(image_ids))
        return real(connection, image_ids)

    monkeypatch.setattr("scanfleet.producer.deletion.pages.remove_images", counted)
    delete(held, root)
    assert max(taken) == 4
    assert sum(taken) == 31


def test_the_command_asks_shows_and_deletes(held: Archive) -> None:
    held.promote("one")
    root = held.scan(5, spread)
    held.promote("two")
    rescan = held.rescan(root, everything=True)
    held.work(shifted)
    settings = held.settings
    where = {"data_dir": settings.data_dir, "database_url": settings.database}

    def call(*words: str) -> tuple[int, str, str]:
        answer = scanfleet("scans", "delete", *words, **where)  # type: ignore[arg-type]
        assert "Traceback" not in answer.stderr
        return answer.returncode, answer.stdout, answer.stderr

    code, shown, said = call(root, "--dry-run")
    assert code == 0
    assert root in shown
    assert rescan in shown
    assert f"{rescan} goes with {root}" in said
    assert call(root)[0] == 2  # nobody can be asked
    assert call()[0] == 2
    assert call("nosuch", "--yes")[0] == 17
    assert call(root, "--older-than", "90 days")[0] == 2
    assert scan_ids(held) == {root, rescan}
    code, _, said = call(rescan, "--yes")
    assert code == 0
    assert "5 answers of rescans stay" in said
    assert scan_ids(held) == {root}
    code, _, said = call("--older-than", "1h", "--yes")
    assert "no scan to delete" in said
    assert call(root, "--yes")[0] == 0
    assert scan_ids(held) == set()
