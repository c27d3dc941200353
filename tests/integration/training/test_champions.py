"""The pointer to the champion on a real PostgreSQL, moved by several at one moment."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.training import champions, refusals
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from tests.helpers.migrated import upgraded
from tests.helpers.patience import patient, until_waited_for

N = 8


@pytest.fixture
def engine(tmp_path: Path, pg_url: str) -> sa.Engine:
    settings = load_settings(data_dir=tmp_path, database_url=pg_url)
    upgraded(settings)
    return connect(settings)


def entered(engine: sa.Engine, number: int) -> int:
    adapter = AdapterInfo(
        check_name="overlay",
        check_hash="h",
        base_model="pocket",
        base_revision="r",
        uri="/x",
        weights_sha256=f"{number:064x}",
    )
    with transaction(engine) as connection:
        return register_adapter(connection, adapter)


def test_the_history_names_what_was_in_use_before_however_many_decide_at_once(engine: sa.Engine) -> None:
    ids = [entered(engine, number) for number in range(N)]

    def promote(adapter_id: int) -> None:
        with transaction(engine) as connection:
            champions.promote(connection, adapter_id, kind="forced", why="test")

    with ThreadPoolExecutor(N) as pool:
        list(pool.map(promote, ids))
        list(pool.map(promote, reversed(ids)))
    with transaction(engine) as connection:
        steps = list(reversed(champions.history(connection, "overlay", "pocket")))
        assert len(steps) == 2 * N
        assert [step.previous_id for step in steps] == [None, *(step.adapter_id for step in steps[:-1])]
        assert champions.in_use(connection) == {("overlay", "pocket"): steps[-1].adapter_id}
        back = champions.roll_back(connection, "overlay", "pocket", why="test", who=None)
        assert back.adapter_id == steps[-1].previous_id
        assert len(champions.predecessors(connection, "overlay", "pocket")) == N - 1
    engine.dispose()


def test_two_rollbacks_at_once_go_back_two_steps(engine: sa.Engine) -> None:
    ids = [entered(engine, number) for number in range(3)]
    for adapter_id in ids:
        with transaction(engine) as connection:
            champions.promote(connection, adapter_id, kind="forced", why="test")

    def back() -> int | None:
        with transaction(engine) as connection:
            return champions.roll_back(connection, "overlay", "pocket", why="test", who=None).adapter_id

    with ThreadPoolExecutor(1) as pool:
        with transaction(engine) as connection:
            champions.roll_back(connection, "overlay", "pocket", why="test", who=None)
            second = pool.submit(back)
            until_waited_for(connection)
        assert second.result(patient(30)) == ids[0]
    engine.dispose()


def test_refusals_are_kept_and_taken_back(engine: sa.Engine) -> None:
    one = entered(engine, 1)
    with transaction(engine) as connection:
        for worker in ("a", "b", "a"):
            refusals.record_refusal(connection, one, worker=worker, why="canary")
        refusals.take_back(connection, one, worker="a")
        assert [each.worker for each in refusals.open_refusals(connection)] == ["b"]
    engine.dispose()
