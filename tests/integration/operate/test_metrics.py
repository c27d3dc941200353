"""What `scanfleet metrics` reads of a ledger, in both databases."""

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from scanfleet.db.engine import now, reading, transaction
from scanfleet.db.fleet.rates import Rate, last_rate, wanted
from scanfleet.db.scans.workers import beat, start_worker, stop_worker
from scanfleet.db.tables import Batch, Scan, Worker
from scanfleet.messages import TRAIN_QUEUE, score_queue
from scanfleet.producer.fleet.metrics import Ledger
from tests.rigs.metrics import samples, value
from tests.rigs.worker_rig import Rig, png, rig

TIMES = {"under_way": 50.0, "idle": 10.0, "scored": 200, "decode": 30.0}


def worked(worker: Rig, name: str, *, model: str = "fake", queue: str | None = None, **more: float) -> None:
    """A worker that scored 200 images in 50 s."""
    with transaction(worker.engine) as connection:
        about = {"host": "h", "pid": 1, "queue": queue or score_queue(model), "device": "cpu"}
        start_worker(connection, worker=name, model=model, **about)
        beat(connection, worker=name, n_images=200, seconds=TIMES | more, progressed=True)


def test_images_batches_and_retries_of_an_open_scan(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        scan_id = worker.scan({f"mem://{number}": png(number) for number in range(10)}, batch_images=4)
        worker.pipeline.run(None)
        with transaction(worker.engine) as connection:
            open_batch = sa.select(sa.func.max(Batch.id)).scalar_subquery()
            connection.execute(sa.update(Batch).where(Batch.id == open_batch).values(state="leased", lease_token=3))
        found = samples(worker.engine)

        def images(outcome: str) -> float:
            return value(found, "scan_images", scan=scan_id, outcome=outcome)

        assert sum(images(each) for each in ("clear", "review", "flag")) == 4
        assert (images("failed"), images("pending"), images("leased")) == (0, 4, 2)
        assert value(found, "scan_batches_ready", scan=scan_id) == 1
        assert value(found, "scan_batches_leased", scan=scan_id) == 1
        assert value(found, "scan_retries", scan=scan_id) == 2
        assert value(found, "scan_oldest_pending_seconds", scan=scan_id) > 0
        assert value(found, "recent_answers") == 4
        assert value(found, "ledger_up") == 1
        worker.drain()


def test_a_scan_that_has_ended_has_no_series(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        worker.scan({"mem://1": png(1)})
        worker.drain()
        found = samples(worker.engine)
        assert value(found, "open_scans") == 0
        assert [name for name, _ in found if name.startswith("scanfleet_scan_")] == []


def test_counts_survive_workers_and_trainings_have_their_own(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        worked(worker, "a")
        worked(worker, "b")
        worked(worker, "t", queue=TRAIN_QUEUE)
        with transaction(worker.engine) as connection:
            stop_worker(connection, "a", because="it hung")
        found = samples(worker.engine)
        assert value(found, "images_scored_total", model="fake") == 400
        assert value(found, "device_idle_seconds_total", model="fake") == 20
        assert value(found, "worker_seconds_total", model="fake") == 100
        assert value(found, "stage_seconds_total", model="fake", stage="decode") == 60
        assert value(found, "workers", model="fake") == 1
        assert value(found, "workers_ended_total", model="fake") == 1
        assert value(found, "workers", model=TRAIN_QUEUE) == 1


def test_wanted_goes_to_nothing_and_back_by_the_rate_measured_last(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        assert [name for name, _ in samples(worker.engine) if name == "scanfleet_workers_wanted"] == []
        scan_id = worker.scan({f"mem://{number}": png(number) for number in range(10)}, batch_images=4)
        assert value(samples(worker.engine), "workers_wanted", model="fake") == 1  # to measure a rate
        worked(worker, "a")
        with transaction(worker.engine) as connection:
            connection.execute(sa.update(Batch).values(n_images=24_000))
        found = samples(worker.engine, minutes=30)
        assert value(found, "worker_rate", model="fake") == pytest.approx(4)
        assert value(found, "workers_wanted", model="fake") == 10  # 72,000 images / (4/s * 1,800 s)
        with transaction(worker.engine) as connection:
            connection.execute(sa.update(Scan).where(Scan.id == scan_id).values(state="paused"))
        assert value(samples(worker.engine), "workers_wanted", model="fake") == 0


def test_a_rate_is_that_of_the_newest_device_and_model(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        with reading(worker.engine) as connection:
            assert last_rate(connection, "fake") is None
        worked(worker, "old", under_way=100.0)
        worked(worker, "new")
        worked(worker, "other", model="fake", queue=score_queue("fake"), under_way=1.0)
        with transaction(worker.engine) as connection:
            before = now(connection) - timedelta(hours=1)
            connection.execute(
                sa.update(Worker).where(Worker.id == "old").values(device_kind="old card", beat_at=before)
            )
            connection.execute(sa.update(Worker).where(Worker.id == "other").values(model="another"))
        with reading(worker.engine) as connection:
            rate = last_rate(connection, "fake")
    assert isinstance(rate, Rate)
    assert (rate.images_per_second, rate.n_workers, rate.device) == (4, 1, "cpu")
    assert "measured by 1 worker on cpu" in rate.source


@pytest.mark.parametrize(("n_images", "n"), [(0, 0), (1, 1), (7_200, 1), (7_201, 2)])
def test_a_part_of_a_worker_is_one(n_images: int, n: int) -> None:
    rate = Rate(images_per_second=4, n_workers=1, device="cpu", at=None, load_seconds=None)  # type: ignore[arg-type]
    assert wanted(n_images, rate, minutes=30) == n


def test_an_autoscaler_gets_a_number_before_the_first_scan(tmp_path: Path, database_url: str) -> None:
    with rig(tmp_path, database_url=database_url) as worker:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Ledger(worker.engine, models=["new/model"]))
        assert registry.get_sample_value("scanfleet_workers_wanted", {"model": "new/model"}) == 0
