"""Trainings under the roles of PostgreSQL: producers request and cancel, training workers do the rest."""

from pathlib import Path

import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import now, transaction
from scanfleet.db.labels.labels import NewLabel, add_labels
from scanfleet.db.scans.checks import save_check
from scanfleet.db.tables import Adapter, LabelledImage
from scanfleet.db.training import trainings, upkeep
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.db.training.champions import champion, promote
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.worker.training import triggers
from tests.integration.contract.test_roles import Urls, engine, urls

__all__ = ["urls"]  # the fixture


def claim(worker: sa.Engine) -> TrainingInfo:
    with transaction(worker) as connection:
        held = trainings.claim(connection, worker="w", base_model="pocket", lease_seconds=60)
    assert held is not None
    return held


def test_each_role_does_its_part_of_a_training(
    urls: Urls,
    tmp_path: Path,
) -> None:
    settings = load_settings(data_dir=tmp_path, model="pocket", train_after_labels=1)
    place = {"uri": "mem://a", "width": 1, "height": 1, "phash": "0", "cluster": "c", "split": "train"}
    with engine(urls.producer, tmp_path) as producer, engine(urls.worker, tmp_path) as worker:
        with transaction(producer) as connection:
            save_check(connection, load_check("overlay"))
            image = {"content_sha256": "0" * 64, "added_at": now(connection), **place}
            connection.execute(sa.insert(LabelledImage), [image])
            label = NewLabel(content_sha256="0" * 64, label="none", who="ann", origin="import")
            add_labels(connection, "overlay", [label])
        (first,) = triggers.check_triggers(worker, settings)
        with transaction(producer) as connection:
            assert trainings.cancel(connection, first)
            trainings.request(
                connection,
                check_id=1,
                check_name="overlay",
                base_model="pocket",
                recipe="auto",
                reason="a test",
                newest_label=1,
            )
        for who in (producer, worker):
            with transaction(who) as connection:
                upkeep.expire_leases(connection)
                upkeep.due_for_notification(connection, renotify_seconds=0)
        held = claim(worker)
        info = AdapterInfo(
            check_name="overlay", check_hash="h", base_model="pocket", base_revision="r", uri="/x", weights_sha256="2"
        )
        with transaction(worker) as connection:
            trainings.beat(connection, held, lease_seconds=60, stage="promote", progress={})
            trainings.require_held(connection, held)
            adapter_id = register_adapter(connection, info)
            trainings.settle(connection, held, verdict="promote", adapter_id=adapter_id)
            connection.execute(sa.update(Adapter).values(gate_verdict="promote"))
            promote(connection, adapter_id, kind="gate", why="better")
            in_use = champion(connection, "overlay", "pocket")
        assert in_use is not None
        assert in_use.id == adapter_id
