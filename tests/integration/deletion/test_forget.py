"""`scanfleet forget`, on SQLite and PostgreSQL: images go for good, whatever goes on with them."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.db.deletion.removal import Removed
from scanfleet.db.deletion.selection import Selection
from scanfleet.db.engine import transaction
from scanfleet.db.results import verdicts
from scanfleet.db.scans import forgotten, new_images, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.tables import Batch, Failure, Forgotten, Image, Scan, Verdict
from scanfleet.errors import DatabaseUnavailable, LeaseLost
from scanfleet.producer.deletion import forgetting
from tests.helpers.cli_call import scanfleet
from tests.helpers.patience import patient
from tests.rigs.deletion_rig import faults, rows
from tests.rigs.rescan_rig import QUEUE, Archive, uri


def spread(name: str) -> float:
    return round((int(name[-5:]) % 31) * 0.2 - 3.0, 3)


def shifted(name: str) -> float:
    return spread(name) + 0.5


def forget(held: Archive, *, with_labels: bool = False, **which: Any) -> Removed:
    done = Removed()
    for page in forgetting.forget(held.engine, Selection(**which), with_labels=with_labels):
        done += page
        assert faults(held.engine) == []
    assert faults(held.engine) == []
    return done


def names(held: Archive, scan_id: str | None = None) -> set[str]:
    return {row.uri for row in rows(held.engine, Image) if scan_id in (None, row.scan_id)}


def add(held: Archive, scan_id: str, page: list[NewImage]) -> None:
    with transaction(held.engine) as connection:
        new_images.add_images(connection, scan_id=scan_id, queue=QUEUE, images=page, batch_images=4)
        opened = sa.update(Scan).where(Scan.id == scan_id)
        connection.execute(opened.values(state="running", finished_at=None, n_listed=len(page)))


def numbered(*numbers: int, **more: Any) -> list[NewImage]:
    return [NewImage(uri=uri(number), etag="1", **more) for number in numbers]


def test_an_image_goes_from_every_scan_and_rescan_and_no_other_does(held: Archive) -> None:
    held.promote("one")
    first, second = held.scan(31, spread, failing=[uri(5), uri(6)]), held.scan(12, spread)
    held.promote("two")
    rescan = held.rescan(first, everything=True)
    held.work(shifted)
    before = {scan_id: held.images(scan_id) for scan_id in (first, second, rescan)}
    gone = {uri(3), uri(5), uri(30)}
    done = forget(held, uris=tuple(gone))
    assert done.n_images == 3 + 1 + 1 + 2  # of the first, of the second twice, of the rescan: a failure has none
    assert done.n_images == sum(name in images for images in before.values() for name in gone)
    for scan_id, images in before.items():
        assert held.images(scan_id) == {name: row for name, row in images.items() if name not in gone}
    assert held.progress(first).n_images == 28
    assert held.progress(first).n_failures == 1


def test_its_copies_in_other_scans_stand_by_themselves(held: Archive) -> None:
    held.promote("one")
    first = held.scan(4, spread)
    other = held.scan(0, spread)
    add(held, other, [NewImage(uri=f"mem://b/{number:05}", etag="1") for number in range(4)])
    with transaction(held.engine) as connection:
        source = connection.execute(sa.select(Verdict.id).where(Verdict.scan_id == first).limit(1)).scalar_one()
    claim = held.must_claim()
    held.write(claim, spread, reused_from=source)
    forget(held, prefix="mem://a/")
    assert names(held) == {f"mem://b/{number:05}" for number in range(4)}
    heirs = {row.reused_from for row in rows(held.engine, Verdict)}
    assert heirs == {min(row.id for row in rows(held.engine, Verdict))}


def test_a_column_of_the_manifest_is_read_as_its_json(held: Archive) -> None:
    scan_id = held.scan(0, spread)
    meta: list[dict[str, Any] | None] = [
        {"advertiser": "acme"}, {"advertiser": "acme 2"}, {"n": 5}, {"n": 5.5}, {"n": "5"}, {"ok": True}, {"ok": 1},
        {"ok": "true"}, {'a"b.c': "x"}, {"größe": "müller"}, {"advertiser": None}, None,
    ]  # fmt: skip
    for wanted, places in (
        ({"advertiser": "acme"}, {0}), ({"n": "5"}, {2, 4}), ({"n": "5.5"}, {3}), ({"ok": "true"}, {5, 7}),
        ({'a"b.c': "x"}, {8}), ({"größe": "müller"}, {9}), ({"advertiser": "ACME"}, set()), ({"none": "None"}, set()),
        ({"advertiser": "acme", "n": "5"}, set()),
    ):  # fmt: skip
        with transaction(held.engine) as connection:
            connection.execute(sa.delete(Forgotten))
        add(held, scan_id, [NewImage(uri=uri(at), meta=each) for at, each in enumerate(meta)])
        assert len(names(held)) == len(meta)
        forget(held, where=wanted)
        assert names(held) == {uri(at) for at in range(len(meta)) if at not in places}, wanted


def test_a_prefix_is_text_with_its_case(held: Archive) -> None:
    scan_id = held.scan(0, spread)
    add(held, scan_id, [NewImage(uri=name) for name in ("s3://a/x_1", "s3://a/X_1", "s3://a/xy1", "s3://b/x_1")])
    forget(held, prefix="s3://a/x_")
    assert names(held) == {"s3://a/X_1", "s3://a/xy1", "s3://b/x_1"}


def test_no_scan_takes_it_again_whatever_its_version(held: Archive) -> None:
    first = held.scan(4, spread)
    forget(held, uris=(uri(1), "mem://a/never-seen"))
    add(held, first, [*numbered(0, 1, 2), NewImage(uri=uri(1), etag="2"), NewImage(uri="mem://a/never-seen")])
    assert names(held, first) == {uri(0), uri(2), uri(3)}
    other = held.scan(3, spread)
    assert names(held, other) == {uri(0), uri(2)}
    assert {row.uri_sha256 for row in rows(held.engine, Forgotten)}.isdisjoint({uri(1)})  # a hash alone


def test_by_age_the_scan_that_held_it_does_not_take_it_again_and_others_may(held: Archive) -> None:
    held.promote("one")
    first = held.scan(20, spread)  # in two batches
    held.promote("two")
    rescan = held.rescan(first, everything=True)
    held.work(shifted)
    old = min(row.id for row in rows(held.engine, Batch))
    with transaction(held.engine) as connection:
        long_ago = datetime.now(UTC) - timedelta(days=100)
        connection.execute(sa.update(Batch).where(Batch.id == old).values(finished_at=long_ago))
    gone = {row.uri for row in rows(held.engine, Image) if row.batch_id == old}
    before = datetime.now(UTC) - timedelta(days=90)
    assert forget(held, before=before).n_images == 2 * len(gone) == 32  # their rescan is younger, and goes along
    add(held, first, numbered(*range(20)))
    assert names(held, first) == names(held, rescan) == {uri(number) for number in range(20)} - gone
    assert names(held, held.scan(20, spread)) >= gone
    assert forget(held, before=before).n_images == 0


def test_of_one_scan_alone(held: Archive) -> None:
    held.promote("one")
    first, second = held.scan(6, spread), held.scan(6, spread)
    held.promote("two")
    rescan = held.rescan(first, everything=True)
    held.work(shifted)
    assert forgetting.roots_of(held.engine, [rescan, first]) == (first,)
    forget(held, uris=(uri(1),), scans=(first,))
    assert uri(1) not in names(held, first) | names(held, rescan)
    assert uri(1) in names(held, second)


def test_a_worker_that_holds_it_writes_nothing_and_the_next_one_goes_on(held: Archive) -> None:
    scan_id = held.scan(0, spread)
    add(held, scan_id, numbered(0, 1, 2, 3))
    late = held.must_claim()
    known = held.outcome(late, spread)
    forget(held, uris=(uri(2),))
    (batch,) = rows(held.engine, Batch)
    assert (batch.state, batch.attempts, batch.n_images) == ("ready", 0, 3)
    with pytest.raises(LeaseLost):
        held.write(late, spread)
    assert rows(held.engine, Verdict) == []
    assert len(known.verdicts) == 4
    held.work(spread)
    assert held.margins(scan_id) == {uri(number): spread(uri(number)) for number in (0, 1, 3)}
    assert held.info(scan_id).state == "done"


def test_a_lease_lasts_when_what_goes_was_answered_before(held: Archive) -> None:
    scan_id = held.scan(0, spread)
    add(held, scan_id, numbered(0, 1, 2, 3))
    part = held.must_claim()
    answers = held.outcome(part, spread)
    with transaction(held.engine) as connection:
        connection.execute(sa.update(Batch).values(suspect=True))
        first = replace(answers, verdicts=answers.verdicts[:1])
        verdicts.write_part(connection, part, first, in_hand=part.images[1].id)
    forget(held, uris=(uri(0),))
    (batch,) = rows(held.engine, Batch)
    assert (batch.state, batch.in_hand, batch.lease_token) == ("leased", part.images[1].id, part.token)


@pytest.mark.parametrize("leased", [False, True])
def test_a_scan_ends_when_its_last_open_images_go(held: Archive, leased: bool) -> None:
    scan_id = held.scan(4, spread)
    add(held, scan_id, numbered(10, 11))
    if leased:
        held.must_claim()
    forget(held, prefix=uri(1)[:-1])
    assert held.info(scan_id).state == "running"  # 00000 to 00003 went, 00010 and 00011 are left
    forget(held, prefix=uri(10)[:-1])
    assert held.info(scan_id).state == "done"
    assert held.progress(scan_id).n_images == 0


@pytest.mark.slow
def test_workers_go_on_while_images_go(held: Archive) -> None:
    """Two of them score and rescan; what they write of a forgotten image comes too late or goes with it."""
    held.promote("one")
    root = held.scan(60, spread)
    held.promote("two")
    other = held.scan(0, spread)
    add(held, other, numbered(*range(60, 120)))
    held.rescan(root, everything=True)
    surprises: list[Exception] = []
    workers = [threading.Thread(target=_score, args=(held, surprises), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    for start in range(0, 120, 5):
        done = Removed()
        for page in forgetting.forget(held.engine, Selection(uris=(uri(start), uri(start + 1))), with_labels=False):
            done += page
        assert done.n_images >= 2
    for worker in workers:
        worker.join(timeout=patient(60))
        assert not worker.is_alive()
    assert surprises == []
    assert faults(held.engine) == []
    left = {uri(number) for number in range(120) if number % 5 not in (0, 1)}
    assert names(held) == left
    held.work(shifted)  # what was taken back when its last worker had ended
    assert {row.state for row in rows(held.engine, Image)} == {"verdict"}
    with transaction(held.engine) as connection:
        scans.finish_all_complete(connection)  # as a reconciler does
    assert {row.state for row in rows(held.engine, Scan)} == {"done"}


def _score(held: Archive, surprises: list[Exception]) -> None:
    while True:
        try:
            if (claim := held.claim()) is None:
                return
            held.write(claim, shifted)
        except (LeaseLost, DatabaseUnavailable):
            continue
        except Exception as error:
            surprises.append(error)
            return


def test_a_rescan_that_goes_on_does_not_take_it(held: Archive) -> None:
    held.promote("one")
    root = held.scan(31, spread)
    held.promote("two")
    pages = held.pages(root, everything=True)
    next(pages)
    next(pages)
    gone = tuple(uri(number) for number in (0, 1, 29, 30))
    forget(held, uris=gone)
    rescan = list(pages)[-1].scan.id
    assert faults(held.engine) == []
    assert names(held, rescan) == names(held, root) == {uri(number) for number in range(31)} - set(gone)


def test_a_page_that_a_rescan_read_before_and_writes_after_holds_no_lost_image(held: Archive) -> None:
    held.promote("one")
    root = held.scan(4, spread)
    stale = [NewImage(uri=name, etag="1", rescan_of=row.id, drawn="all") for name, row in held.images(root).items()]
    other = held.scan(0, spread)
    forget(held, uris=(uri(1),), scans=(root,))
    add(held, other, stale)
    assert names(held, other) == {uri(0), uri(2), uri(3)}
    assert faults(held.engine) == []


def test_what_a_listing_writes_at_that_moment_is_found(held: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another scan adds the image after it was looked for; it had read what is forgotten before that was written."""
    held.scan(2, spread)
    other = held.scan(0, spread)
    real, rounds = forgetting._pages, []

    def pages(engine: sa.Engine, chosen: Selection, **how: Any) -> Iterator[Removed]:
        yield from real(engine, chosen, **how)
        if not rounds:
            with transaction(engine) as connection:
                connection.execute(sa.delete(Forgotten))
            add(held, other, numbered(1))
            with transaction(engine) as connection:
                forgotten.remember(connection, [(uri(1), forgotten.EVERY)])
        rounds.append(names(held, other))

    monkeypatch.setattr(forgetting, "_pages", pages)
    forget(held, uris=(uri(1),))
    assert rounds[0] == {uri(1)}
    assert names(held) == {uri(0)}


KILLED = """
import os, signal, sys
from itertools import islice
from pathlib import Path
from scanfleet.producer.deletion import forgetting
from scanfleet.config.settings import load_settings
from scanfleet.db.deletion.selection import Selection
from scanfleet.db.engine import connect
forgetting.PAGE_IMAGES = 5
engine = connect(load_settings(database_url=sys.argv[1], data_dir=Path(sys.argv[2])))
for _ in islice(forgetting.forget(engine, Selection(prefix="mem://a/"), with_labels=True), 2):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_killed_between_two_pages_it_goes_on(held: Archive) -> None:
    held.promote("one")
    root = held.scan(31, spread, failing=[uri(2)])
    held.promote("two")
    held.rescan(root, everything=True)
    held.work(shifted)
    command = [sys.executable, "-P", "-c", KILLED, held.settings.database, str(held.settings.data_dir)]
    assert subprocess.run(command, timeout=120, check=False).returncode == -signal.SIGKILL
    assert faults(held.engine) == []
    assert len(names(held, root)) == 21
    forget(held, prefix="mem://a/")
    for table in (Image, Batch, Verdict, Failure):
        assert rows(held.engine, table) == []
    assert len(rows(held.engine, Forgotten)) == 31


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "PAGE_IMAGES", 7)


def test_a_listing_says_how_many_it_leaves_out(held: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(b"")
    where = {"data_dir": held.settings.data_dir, "database_url": held.settings.database, "model": "fake"}

    def scan(*more: str) -> str:
        return str(scanfleet("scan", folder, "--check", "overlay", *more, **where).stderr)  # type: ignore[arg-type]

    assert "left out" not in scan()
    assert forget(held, uris=(str(folder / "a.png"),)).n_images == 1
    for said in (scan(), scan("--fresh")):
        assert "left out: 1 image that `scanfleet forget` deleted" in said
    assert "already holds the others" in scan()
