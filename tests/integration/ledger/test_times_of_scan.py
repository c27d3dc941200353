"""The sums of a scan's batches, in both databases."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading, transaction
from scanfleet.db.tables import Batch, Scan
from scanfleet.db.tallies import scan_sums
from scanfleet.db.tallies.scan_sums import times_of_scan
from scanfleet.stats.stage_times import NAMES
from tests.rigs.worker_rig import png, rig


def test_batches_add_up_and_those_without_a_record_count_as_nothing(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        scan_id = worker.scan({f"mem://{number}": png(number) for number in range(12)}, batch_images=4)
        worker.drain()
        batches = worker.rows(Batch)
        assert len(batches) == 3
        with transaction(worker.engine) as connection:
            connection.execute(sa.update(Batch).where(Batch.id == batches[0].id).values(seconds=None))
            connection.execute(sa.update(Batch).where(Batch.id == batches[1].id).values(seconds={"fetch": 2}))
        with reading(worker.engine) as connection:
            times = times_of_scan(connection, scan_id)
            nothing = times_of_scan(connection, "no such scan")
    last = batches[2].seconds
    expected = {name: last.get(name, 0.0) for name in NAMES} | {"fetch": 2 + last["fetch"]}
    assert {name: times[name] for name in NAMES} == pytest.approx(expected)
    assert times["scored"] == 4
    assert nothing.bottleneck is None


def test_the_sums_that_are_kept_hold_until_a_batch_is_claimed_again_or_goes(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_sums, "KEPT_FROM", 12)
    with rig(tmp_path, database_url=database_url) as worker:
        scan_id = worker.scan({f"mem://{number}": png(number) for number in range(12)}, batch_images=4)
        worker.drain()

        def fetched(**changes: object) -> float:
            """What is said once every batch says that it took 1 s, and one of them is changed."""
            with worker.engine.connect() as connection:  # rolled back at the end
                connection.execute(sa.update(Batch).values(seconds={"fetch": 1}))
                batch = worker.rows(Batch)[0].id
                if changes:
                    connection.execute(sa.update(Batch).where(Batch.id == batch).values(**changes))
                return times_of_scan(connection, scan_id)["fetch"]

        assert fetched() == 3  # not kept yet
        with transaction(worker.engine) as connection:
            assert [scan_sums.keep_next(connection) for _ in range(2)] == [scan_id, None]
        kept = worker.rows(Scan)[0].sums
        assert kept["claims"] == [3, 3]
        assert fetched() == kept["times"]["fetch"] != 3
        assert fetched(lease_token=2) == 3
