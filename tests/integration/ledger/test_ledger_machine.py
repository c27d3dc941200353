"""The life of a batch under random workers, notifications, faults and people: see tests/ledger_machine.

And what the machine is worth: with one safeguard of the ledger taken away it must find a violation, though it then
relies on the invariants and on the end alone.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db import leases
from scanfleet.db.engine import connect, now
from scanfleet.db.results import verdict_rows
from scanfleet.db.scans import batches, crash_isolation
from scanfleet.db.scans.crash_isolation import Expired
from scanfleet.db.tables import Batch, Image
from tests.helpers.migrated import upgrade
from tests.ledger_machine.machine import run_machine

EXAMPLES = {"sqlite": 12, "postgresql": 6}  # of 40 steps each; `make test-slow` runs many more
CONTROL_EXAMPLES = 40  # within which a ledger without one safeguard is found out


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=database_url, data_dir=tmp_path, model="fake"))
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(data_dir=tmp_path, model="fake"))
    upgrade(engine)
    yield engine
    engine.dispose()


def test_no_image_is_lost_doubled_or_blamed_wrongly_whatever_happens(engine: sa.Engine) -> None:
    examples = EXAMPLES[engine.dialect.name]
    assert len(run_machine(engine, examples=examples)) >= examples


@pytest.mark.slow
def test_the_same_for_longer_and_with_other_choices_each_time(engine: sa.Engine) -> None:
    """TEST_SEED=number repeats a run."""
    seed = int(os.environ.get("TEST_SEED", 0)) or int.from_bytes(os.urandom(4), "big")
    print(f"TEST_SEED={seed}")  # noqa: T201 - shown with a failure
    examples = 20 * EXAMPLES[engine.dialect.name]
    assert len(run_machine(engine, examples=examples, steps=60, seed=seed, shrink=True)) >= examples


def test_without_the_token_the_machine_finds_a_late_writer(
    embedded: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding = leases._held

    def held(table: Any, same: Any) -> list[sa.ColumnElement[bool]]:
        row, *rest = holding(table, same)
        return [row, sa.or_(row, *rest)]

    monkeypatch.setattr(leases, "_held", held)
    monkeypatch.setattr(leases, "_touching", cache(leases._touching.__wrapped__))
    with pytest.raises((AssertionError, sa.exc.IntegrityError)):
        run_machine(embedded, examples=CONTROL_EXAMPLES, strict=False)


def test_without_the_images_the_machine_finds_a_writer_to_restored_ids(
    embedded: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = "batch_id = ?7 AND identity = ?8 AND rescan_of IS ?9"
    assert alike in verdict_rows._ANSWER
    anyone = verdict_rows._ANSWER.replace(alike, "coalesce(?7, ?8, ?9) IS NOT NULL")
    monkeypatch.setattr(verdict_rows, "_ANSWER", anyone)
    monkeypatch.setattr(batches, "require_images", lambda *_: None)
    with pytest.raises(AssertionError, match="without a lease"):
        run_machine(embedded, examples=CONTROL_EXAMPLES)


def test_without_expiry_the_ledger_does_not_drain(embedded: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_isolation, "expire_leases", lambda connection: Expired())
    # Or, before that: a worker that was given up long ago still holds its lease, and records an image.
    with pytest.raises(AssertionError, match=r"not drained|in hand"):
        run_machine(embedded, examples=CONTROL_EXAMPLES, strict=False)


def test_blaming_the_whole_batch_quarantines_an_innocent_image(
    embedded: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    blame_one = crash_isolation.expire_leases

    def blame_all(connection: sa.Connection) -> Expired:
        at = now(connection)
        dead = sa.select(Batch.id, Batch.scan_id, Batch.in_hand).where(Batch.state == "leased", Batch.lease_until < at)
        for batch in connection.execute(dead).all():
            others = sa.select(Image.id).where(Image.batch_id == batch.id, Image.state == "pending")
            for image_id in connection.execute(others.where(Image.id != sa.func.coalesce(batch.in_hand, 0))).scalars():
                if crash_isolation._blame(connection, image_id) > crash_isolation.MAX_CRASHES:
                    names = {"batch_id": batch.id, "scan_id": batch.scan_id, "image_id": image_id}
                    crash_isolation._quarantine(connection, **names, at=at)
        return blame_one(connection)

    monkeypatch.setattr(crash_isolation, "expire_leases", blame_all)
    with pytest.raises(AssertionError, match=r"innocent|in hand at"):
        run_machine(embedded, examples=CONTROL_EXAMPLES, strict=False)
