"""Tallies of batches say what their images say, whoever wrote them, and whatever happened since."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from scanfleet.db.deletion.removal import remove_images
from scanfleet.db.deletion.scans import begin_deletion, end_deletion, images_of_scan
from scanfleet.db.engine import reading, transaction
from scanfleet.db.queries.scan_sums import _counted, sums_of_scan, tally_of_scan
from scanfleet.db.tables import Batch, Image, Verdict
from scanfleet.db.tallies import scan_sums
from scanfleet.db.tallies.scan_sums import kept_tally, summed_tally
from tests.rigs.rescan_rig import Archive, archive, uri

FAILED = 5
migration: Any = importlib.import_module("scanfleet.migrations.versions.0018_tallies")


@pytest.fixture
def held(tmp_path: Path, database_url: str) -> Iterator[Archive]:
    with archive(tmp_path, database_url=database_url) as made:
        yield made


def spread(name: str) -> float:
    return float(int(name[-5:]) - 4)


def rescanned(held: Archive) -> tuple[str, str]:
    """A scan with a failure, and a rescan by another adapter that moves every margin."""
    held.promote("aa" * 32)
    root = held.scan(12, spread, failing=[uri(FAILED)])
    held.promote("bb" * 32)
    rescan = held.rescan(root, everything=True)
    held.work(lambda name: spread(name) + 2)
    return root, rescan


def agrees(held: Archive, scan_id: str) -> dict[str, int]:
    """The tally of a scan, which must be that of its images."""
    with reading(held.engine) as connection:
        tally = tally_of_scan(connection, scan_id)
        assert tally == _counted(connection, Image.scan_id == scan_id)
    return dict(tally)


def change(held: Archive, statement: sa.Update) -> None:
    with transaction(held.engine) as connection:
        assert connection.execute(statement).rowcount


def told(held: Archive, scan_id: str) -> list[dict[str, int] | None]:
    with reading(held.engine) as connection:
        return list(connection.execute(sa.select(Batch.tally).where(Batch.scan_id == scan_id)).scalars())


def test_a_rescan_and_a_deletion_keep_them_right(held: Archive) -> None:
    root, rescan = rescanned(held)
    before = agrees(held, root)
    assert {name.split(" ")[0] for name in before} == {name.split(" ")[0] for name in agrees(held, rescan)}
    with transaction(held.engine) as connection:
        images = connection.execute(sa.select(Image.id).where(Image.scan_id == rescan).limit(3)).scalars().all()
        assert remove_images(connection, images).n_images == 3
    assert agrees(held, root) == before
    assert sum(agrees(held, rescan).values()) < sum(before.values())
    with reading(held.engine) as connection:  # by the batches alone, without counting
        for scan_id in (root, rescan):
            assert summed_tally(connection, scan_id) == _counted(connection, Image.scan_id == scan_id)


def test_what_a_worker_of_the_release_before_wrote_is_counted(held: Archive) -> None:
    root, rescan = rescanned(held)
    before = agrees(held, root)
    first = sa.select(sa.func.min(Batch.id)).where(Batch.scan_id == root).scalar_subquery()
    change(held, sa.update(Batch).where(Batch.id == first).values(tally=None))
    assert agrees(held, root) == before
    # It answers a rescan of a tallied scan, and takes the counts of its batch along, but not the tally.
    change(held, sa.update(Batch).where(Batch.scan_id == root).values(tally={"1 clear none": 1}))
    change(held, sa.update(Batch).where(Batch.scan_id == rescan).values(tally=None))
    assert agrees(held, root) == before


def test_a_rescan_by_a_worker_of_the_release_before_is_noticed(held: Archive) -> None:
    """Decisions are as before, so that only the rescan's batches tell that another scorer answers."""
    root, rescan = rescanned(held)
    mine = sa.select(Image.verdict_id).where(Image.scan_id == root)
    change(held, sa.update(Verdict).where(Verdict.id.in_(mine)).values(label="natural"))
    change(held, sa.update(Batch).where(Batch.scan_id == rescan).values(tally=None))
    with reading(held.engine) as connection:
        assert {label for _, label in sums_of_scan(connection, root).answers} == {"natural"}


def test_what_is_kept_of_a_scan_that_is_done_holds_until_its_answers_change(
    held: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_sums, "KEPT_FROM", 12)
    held.promote("aa" * 32)
    root = held.scan(12, spread)
    with transaction(held.engine) as connection:
        assert scan_sums.keep_next(connection) == root
    before = agrees(held, root)
    change(held, sa.update(Batch).values(tally={"1 clear none": 12}))
    with reading(held.engine) as connection:
        assert kept_tally(connection, root) == before == dict(tally_of_scan(connection, root))
    change(held, sa.update(Batch).values(n_review=Batch.n_review + 1))
    with reading(held.engine) as connection:
        assert kept_tally(connection, root) is None
    change(held, sa.update(Batch).values(n_review=Batch.n_review - 1, tally=None))
    held.promote("bb" * 32)
    rescan = held.rescan(root, everything=True)
    held.work(spread)  # the same decisions by another scorer
    with reading(held.engine) as connection:
        assert kept_tally(connection, root) is None
    after = agrees(held, root)
    assert set(after).isdisjoint(before)
    with transaction(held.engine) as connection:
        begin_deletion(connection, rescan)
        remove_images(connection, images_of_scan(connection, rescan, limit=12))
        end_deletion(connection, rescan)
    assert agrees(held, root) == after


def test_the_migration_tallies_what_is_there(held: Archive) -> None:
    root, rescan = rescanned(held)
    change(held, sa.update(Verdict).values(unlike=0.95, doubted="flag", mass=0.5, explanation={"problem": "mute é"}))
    frames = {"n_frames": 7, "n_scored": 3, "frame": 0, "seconds": None}
    change(held, sa.update(Verdict).where(Verdict.decision == "flag").values(frames=frames))
    change(held, sa.update(Batch).values(tally=None))
    with transaction(held.engine) as connection:
        with Operations.context(MigrationContext.configure(connection)):
            getattr(migration, f"_tally_on_{held.engine.dialect.name}")()
        for scan_id in (root, rescan):
            every = [tally for tally in _tallies(connection, scan_id) if tally]
            assert sum(sum(tally.values()) for tally in every) == _counted(connection, Image.scan_id == scan_id).total()
    for scan_id in (root, rescan):
        assert agrees(held, scan_id)
        assert None not in told(held, scan_id)


def _tallies(connection: sa.Connection, scan_id: str) -> list[dict[str, int] | None]:
    return list(connection.execute(sa.select(Batch.tally).where(Batch.scan_id == scan_id)).scalars())
