"""A worker that ended itself is named until another one takes its place."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.scans.workers import ended_workers, set_waiting, start_worker
from scanfleet.db.schema import ledger
from scanfleet.db.tables import Worker
from scanfleet.errors import BadSettings, UnknownModel
from scanfleet.producer.scans.session import why_no_worker
from scanfleet.worker.processes.registration import registered_worker

QUEUE = "score.x"
SETTINGS = load_settings()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with ledger(load_settings(data_dir=tmp_path)) as opened:
        yield opened


def refused(engine: sa.Engine, worker: str, *, why: str = "no such model", queue: str = QUEUE) -> None:
    with pytest.raises(BadSettings), registered_worker(engine, SETTINGS, worker=worker, queue=queue):
        raise UnknownModel(why)


def ended(engine: sa.Engine) -> dict[str, str]:
    with reading(engine) as connection:
        return ended_workers(connection, silent_seconds=30.0, within_seconds=3600.0)


def why(engine: sa.Engine, *, ended: bool = True) -> str | None:
    with reading(engine) as connection:
        return why_no_worker(connection, QUEUE, ended=ended)


def test_a_refusal_is_kept_without_secrets_and_an_orderly_end_is_none(engine: sa.Engine) -> None:
    refused(engine, "a", why="no such model: postgresql://me:secret@db/x\0")
    with registered_worker(engine, SETTINGS, worker="b", queue="score.y"):
        pass
    with reading(engine) as connection:
        rows = {row.id: row.ended_because for row in connection.execute(sa.select(Worker.id, Worker.ended_because))}
    assert rows["b"] is None
    assert str(rows["a"]).startswith("no such model: ")
    assert "secret" not in str(rows["a"])
    assert "\0" not in str(rows["a"])


def test_the_newest_of_a_queue_counts(engine: sa.Engine) -> None:
    assert (ended(engine), why(engine)) == ({}, None)
    refused(engine, "a", why="first")
    refused(engine, "b", why="second")
    refused(engine, "c", why="other", queue="score.y")
    assert ended(engine) == {"b": "second", "c": "other"}
    assert why(engine) == "a worker; the last one ended: second"
    assert why(engine, ended=False) is None


def test_a_live_worker_takes_its_place_and_says_what_it_waits_for(engine: sa.Engine) -> None:
    refused(engine, "a")
    with transaction(engine) as connection:
        start_worker(connection, worker="b", host="h", pid=1, queue=QUEUE, device="cpu")
    assert (ended(engine), why(engine)) == ({}, None)
    with transaction(engine) as connection:
        set_waiting(connection, "b", "the hub is away")
    assert why(engine) == why(engine, ended=False) == "the hub is away"


def test_one_that_was_replaced_by_an_orderly_one_is_forgotten(engine: sa.Engine) -> None:
    refused(engine, "a")
    with registered_worker(engine, SETTINGS, worker="b", queue=QUEUE):
        pass
    assert (ended(engine), why(engine)) == ({}, None)


def test_an_old_end_is_not_listed(engine: sa.Engine) -> None:
    refused(engine, "a")
    with reading(engine) as connection:
        assert ended_workers(connection, silent_seconds=30.0, within_seconds=-1.0) == {}
