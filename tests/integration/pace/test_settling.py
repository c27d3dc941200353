"""What a settled batch costs the database, in things that do not depend on how busy the machine is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from bench.control.settling import (
    BATCH_IMAGES,
    PAGE_IMAGES,
    Statements,
    add,
    enqueued,
    look_up,
    outcome_of,
    scorer_of,
    settle_next,
)  # fmt: skip
from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, reading, transaction
from scanfleet.db.scans import batches, scans
from tests.helpers.migrated import upgrade

N_BATCHES = 12
CHECK = load_check("overlay")


@pytest.fixture
def engine(pg_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = connect(load_settings(database_url=pg_url, data_dir=tmp_path, model="fake"))
    upgrade(engine)
    with transaction(engine) as connection:  # as in the first minute of a database, or after a restore
        for table in ("images", "verdicts", "batches"):
            connection.execute(sa.text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
    yield engine
    engine.dispose()


def test_a_batch_is_claimed_and_settled_in_six_statements(engine: sa.Engine) -> None:
    model, scorer = enqueued(engine, CHECK, N_BATCHES * BATCH_IMAGES), scorer_of(engine, CHECK)
    settle_next(engine, model, scorer)  # reads the check, once for each process
    counted = Statements(engine)
    with counted.counted():
        for _ in range(N_BATCHES - 2):  # the last one ends the scan
            settle_next(engine, model, scorer)
    assert counted.n == 6 * (N_BATCHES - 2)


def test_an_answer_is_written_beside_its_image(engine: sa.Engine) -> None:
    """Heap-only tuples: an index of images that has a column which an answer changes would end them."""
    model, scorer = enqueued(engine, CHECK, N_BATCHES * BATCH_IMAGES), scorer_of(engine, CHECK)
    for _ in range(N_BATCHES):
        settle_next(engine, model, scorer)
    query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'images'"
    with reading(engine) as connection:
        connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    with reading(engine) as connection:
        updated = connection.execute(sa.text(query)).one()
    assert updated.n_tup_upd == N_BATCHES * BATCH_IMAGES
    assert updated.n_tup_hot_upd >= 0.9 * updated.n_tup_upd


def test_a_batch_reads_no_more_where_the_tables_have_no_statistics(engine: sa.Engine) -> None:
    """A plan that reads a whole table would read more with every batch."""
    model, scorer = enqueued(engine, CHECK, N_BATCHES * 5 * BATCH_IMAGES), scorer_of(engine, CHECK)
    taken = []
    for _ in range(3):
        before = _blocks(engine)
        for _ in range(N_BATCHES):
            settle_next(engine, model, scorer)
        taken.append(_blocks(engine) - before)
    assert taken[2] < 1.5 * taken[1], taken


def test_earlier_answers_are_looked_up_one_by_one_where_the_tables_have_no_statistics(engine: sa.Engine) -> None:
    """A plan that reads all verdicts of the scorer would read four times as much in the end."""
    model, scorer = enqueued(engine, CHECK, 41 * BATCH_IMAGES), scorer_of(engine, CHECK)
    with transaction(engine) as connection:
        held = batches.claim(connection, model=model, worker="bench", lease_seconds=60)
    assert held is not None
    unknown = outcome_of(held, scorer).verdicts
    taken = []
    for n in (10, 30):
        for _ in range(n):
            settle_next(engine, model, scorer)
        before = _blocks(engine)
        for _ in range(5):
            look_up(engine, scorer.id, unknown)
        taken.append(_blocks(engine) - before)
    assert taken[1] < 1.5 * taken[0], taken


def test_a_page_is_enqueued_with_no_more_reading_where_the_tables_have_no_statistics(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        scan, _ = scans.open_scan(connection, check=CHECK, model="fake", sources=["many"], filters={})
    taken = []
    for part in range(3):
        before = _blocks(engine)
        add(engine, scan, range(part * 8 * PAGE_IMAGES, (part + 1) * 8 * PAGE_IMAGES))
        taken.append(_blocks(engine) - before)
    assert taken[2] < 1.5 * taken[1], taken


def _blocks(engine: sa.Engine) -> int:
    """Return the blocks of tables and indexes that were read so far, by any session."""
    query = "SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit) FROM pg_statio_user_tables"
    with reading(engine) as connection:
        connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    with reading(engine) as connection:
        return int(connection.execute(sa.text(query)).scalar_one())
