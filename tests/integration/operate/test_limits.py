"""Limits that pause a scan, in both databases."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.db.engine import reading, transaction
from scanfleet.db.fleet.limits import cost, limits_of, pause_spent, set_limits, worker_seconds
from scanfleet.db.scans import scans
from scanfleet.db.tables import Batch, Image, Scan
from tests.rigs.worker_rig import Rig, png, rig


def spent(worker: Rig) -> dict[str, str]:
    with transaction(worker.engine) as connection:
        return pause_spent(connection)


def limit(worker: Rig, scan_id: str, **limits: float) -> None:
    with transaction(worker.engine) as connection:
        set_limits(connection, scan_id, limits)


def state(worker: Rig) -> str:
    return str(worker.rows(Scan)[0].state)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_images": 8.0}, "max_images 8"),
        ({"max_bytes": 800.0}, "max_bytes 800"),
        ({"max_cost": 2.0, "price_per_hour": 1.0}, "max_cost 2"),
    ],
)
def test_a_scan_pauses_at_its_limit_and_resumes_with_a_higher_one(
    tmp_path: Path, database_url: str, limits: dict[str, float], words: str
) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        scan_id = worker.scan({f"mem://{number}": png(number) for number in range(12)}, batch_images=4)
        limit(worker, scan_id, **limits)

        def score_one() -> None:
            worker.pipeline.run(None)
            with transaction(worker.engine) as connection:
                connection.execute(sa.update(Batch).values(n_bytes=400))
                done = sa.update(Batch).where(Batch.state == "done")
                connection.execute(done.values(seconds={"under_way": 3600.0}))

        score_one()
        assert (spent(worker), state(worker)) == ({}, "running")
        score_one()
        assert (spent(worker), state(worker)) == ({scan_id: words}, "paused")
        worker.drain()
        assert sum(row.state == "pending" for row in worker.rows(Image)) == 4
        limit(
            worker, scan_id, **{name: 10 * value if name.startswith("max") else value for name, value in limits.items()}
        )
        assert (spent(worker), state(worker)) == ({}, "running")
        worker.drain()
        assert state(worker) == "done"


def test_a_person_who_resumes_lifts_the_limit_and_a_pause_by_hand_stays(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        scan_id = worker.scan({f"mem://{number}": png(number) for number in range(8)}, batch_images=4)
        limit(worker, scan_id, max_images=4)
        with transaction(worker.engine) as connection:
            scans.pause(connection, scan_id)
        limit(worker, scan_id, max_images=2)
        assert state(worker) == "paused"
        with transaction(worker.engine) as connection:
            scans.resume(connection, scan_id)
        with reading(worker.engine) as connection:
            assert limits_of(connection, scan_id) == {"max_images": 2}
        worker.pipeline.run(None)
        assert spent(worker) == {scan_id: "max_images 2"}
        with transaction(worker.engine) as connection:
            scans.resume(connection, scan_id)
        assert (spent(worker), state(worker)) == ({}, "running")


def test_bytes_of_batches_are_those_listed_and_seconds_add_up(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        contents = {f"mem://{number}": png(number) for number in range(6)}
        scan_id = worker.scan(contents, batch_images=4)
        sizes = [row.size or 0 for row in worker.rows(Image)]
        assert [row.n_bytes for row in worker.rows(Batch)] == [sum(sizes[:4]), sum(sizes[4:])]
        with transaction(worker.engine) as connection:
            connection.execute(sa.update(Batch).values(seconds={"under_way": 90.0}))
        with reading(worker.engine) as connection:
            assert worker_seconds(connection, scan_id) == 180
    assert cost(180, 20) == 1
