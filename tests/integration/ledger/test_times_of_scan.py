"""The sums of a scan's batches, in both databases."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading, transaction
from scanfleet.db.results.results import times_of_scan
from scanfleet.db.tables import Batch
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
