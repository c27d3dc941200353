"""Models whose names differ never share images: neither through a queue's name, nor through one of an older release."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import connect, transaction
from scanfleet.db.scans import batches, new_images, notifications, scans
from scanfleet.db.scans.new_images import NewImage
from scanfleet.db.scans.scans import ScanInfo
from scanfleet.db.tables import Batch, Scan
from scanfleet.messages import old_score_queue, score_queue
from tests.helpers.migrated import upgrade

ALIKE = (
    "endpoint:gpt-4.1",
    "endpoint:gpt-4-1",
    "/ft/v1.0",
    "/ft/v1-0",
    "/FT/v1-0",
    "模型",
    "модель",
    "",
    "-",
    "a--b",
    "a-b",
)


def test_names_that_differ_have_queues_that_differ() -> None:
    queues = {model: score_queue(model) for model in (*ALIKE, "gpt-4-1", "pocket", "X" * 500)}
    for one, other in combinations(queues, 2):
        assert queues[one] != queues[other], (one, other)
    assert queues["pocket"] == "score.pocket"  # running fleets go on
    assert all(len(queue) < 128 for queue in queues.values())


@pytest.fixture
def engine(tmp_path: Path, database_url: str) -> Iterator[sa.Engine]:
    engine = connect(load_settings(data_dir=tmp_path, database_url=database_url))
    upgrade(engine)
    yield engine
    engine.dispose()


def enqueued(connection: sa.Connection, model: str, *, queue: str) -> ScanInfo:
    scan, _ = scans.open_scan(connection, check=load_check("overlay"), model=model, sources=["/a"], filters={})
    images = [NewImage(uri=f"/{model}/{number}") for number in range(2)]
    new_images.add_images(connection, scan_id=scan.id, queue=queue, images=images, batch_images=1)
    connection.execute(sa.update(Scan).where(Scan.id == scan.id).values(queue=queue))
    return scan


@pytest.mark.parametrize("old", [True, False])
def test_a_worker_takes_the_batches_of_its_own_model_alone(engine: sa.Engine, old: bool) -> None:
    models = ("/ft/v1.0", "/ft/v1-0")
    with transaction(engine) as connection:
        held = {
            model: enqueued(connection, model, queue=old_score_queue(model) if old else score_queue(model))
            for model in models
        }
        due = notifications.due_for_notification(connection, renotify_seconds=30, max_outstanding=10)
        queues = dict(due)
        found = connection.execute(sa.select(Batch.id, Batch.scan_id)).all()
    for model in models:
        mine = {row.id for row in found if row.scan_id == held[model].id}
        others = {row.id for row in found} - mine
        assert {queues[batch_id] for batch_id in mine} == {score_queue(model)} == {held[model].queue}
        for notified in [*others, None, None]:  # a notification of another model's batch is no right to it
            with transaction(engine) as connection:
                claim = batches.claim(connection, model=model, worker="w", lease_seconds=60, notified=notified)
                if claim is not None:
                    assert (claim.scan_id, claim.batch_id in mine) == (held[model].id, True)
                    batches.settle(connection, claim, values={}, waiting_for=None)
        with transaction(engine) as connection:
            assert not batches.has_ready(connection, model)
    with transaction(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).where(Batch.state == "done")).scalar_one() == 4
