"""The states of a training, on SQLite and on PostgreSQL: one at a time, lost leases refused, expired ones reissued."""

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, now, reading, transaction
from scanfleet.db.labels.labels import NewLabel, add_labels, newest_label
from scanfleet.db.scans import workers
from scanfleet.db.scans.checks import save_check
from scanfleet.db.tables import LabelledImage, Training
from scanfleet.db.training import trainings
from scanfleet.db.training.trainings import MAX_CRASHES, MAX_LOSSES, AlreadyUnderWay, TrainingInfo
from scanfleet.db.training.upkeep import due_for_notification, expire_leases
from scanfleet.errors import LeaseLost, UnknownName
from scanfleet.messages import TRAIN_QUEUE
from scanfleet.queue.app import make_app
from scanfleet.reconcile import reconcile_once
from scanfleet.worker.training import triggers
from tests.helpers.migrated import upgrade


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(database_url=database_url, data_dir=tmp_path, model="fake", train_on_drift=False)


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    engine = connect(settings)
    upgrade(engine)
    yield engine
    engine.dispose()


def request(engine: sa.Engine, **fields: Any) -> int:
    with transaction(engine) as connection:
        wanted: dict[str, Any] = {
            "check_id": save_check(connection, load_check("overlay")),
            "check_name": "overlay",
            "base_model": "fake",
            "recipe": "auto",
            "reason": "a test",
            "newest_label": 7,
        }
        return trainings.request(connection, **(wanted | fields))


def claim(engine: sa.Engine, *, lease_seconds: float = 60, **fields: Any) -> TrainingInfo | None:
    with transaction(engine) as connection:
        wanted: dict[str, Any] = {"worker": "w", "base_model": "fake"}
        return trainings.claim(connection, lease_seconds=lease_seconds, **(wanted | fields))


def must_claim(engine: sa.Engine, **fields: Any) -> TrainingInfo:
    held = claim(engine, **fields)
    assert held is not None
    return held


def get(engine: sa.Engine, training_id: int) -> TrainingInfo:
    with reading(engine) as connection:
        return trainings.get(connection, training_id)


def forget_backoff(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(sa.update(Training).values(not_before=None))


def test_a_check_and_base_model_have_one_unfinished_training(engine: sa.Engine) -> None:
    first = request(engine)
    with pytest.raises(AlreadyUnderWay, match=f"training {first} "):
        request(engine)
    other = request(engine, base_model="another")
    held = must_claim(engine)
    assert held.id == first
    with pytest.raises(AlreadyUnderWay):
        request(engine)
    with transaction(engine) as connection:
        trainings.settle(connection, held, verdict="hold")
    assert request(engine) > other


def test_of_many_requests_at_once_one_is_taken(engine: sa.Engine) -> None:
    request(engine, base_model="another")  # the check is stored
    outcomes: list[str] = []

    def ask() -> None:
        try:
            request(engine)
            outcomes.append("taken")
        except AlreadyUnderWay:
            outcomes.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 5 + ["taken"]


def test_a_worker_takes_trainings_of_its_own_base_model_alone(engine: sa.Engine) -> None:
    wanted = request(engine)
    assert claim(engine, base_model="another", notified=wanted) is None
    held = must_claim(engine, notified=wanted)
    assert (held.id, held.lease_owner, held.newest_label) == (wanted, "w", 7)
    assert claim(engine) is None


def test_many_claims_at_once_hand_a_training_out_once(engine: sa.Engine) -> None:
    request(engine)
    found: list[TrainingInfo | None] = []
    threads = [threading.Thread(target=lambda: found.append(claim(engine))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each is not None for each in found) == 1


def test_a_lost_lease_changes_nothing(engine: sa.Engine) -> None:
    training_id = request(engine)
    late = must_claim(engine, lease_seconds=-1)
    with transaction(engine) as connection:
        assert expire_leases(connection) == [training_id]
    held = must_claim(engine)
    assert held.lease_token == late.lease_token + 1
    attempts = (
        lambda connection: trainings.beat(connection, late, lease_seconds=60, stage="fit", progress={}),
        lambda connection: trainings.require_held(connection, late),
        lambda connection: trainings.settle(connection, late, verdict="promote", adapter_id=1),
        lambda connection: trainings.give_back(connection, late),
        lambda connection: trainings.wait(connection, late, waiting_for="x", progress={}),
        lambda connection: trainings.crashed(connection, late, how="x", progress={}),
    )
    before = get(engine, training_id)
    for attempt in attempts:
        with pytest.raises(LeaseLost), transaction(engine) as connection:
            attempt(connection)
    assert get(engine, training_id) == before


def test_a_heartbeat_stores_progress_and_extends_the_lease(engine: sa.Engine) -> None:
    training_id = request(engine)
    held = must_claim(engine, lease_seconds=-1)
    with transaction(engine) as connection:
        trainings.beat(connection, held, lease_seconds=60, stage="fit", progress={"step": 3})
        assert expire_leases(connection) == []
        assert trainings.under_way(connection)["w"].id == training_id
    found = get(engine, training_id)
    assert (found.state, found.stage, found.progress) == ("leased", "fit", {"step": 3})


def test_a_returned_training_is_ready_at_once_and_a_waiting_one_after_a_pause(engine: sa.Engine) -> None:
    training_id = request(engine)
    with transaction(engine) as connection:
        held = must_claim_in(connection)
        trainings.give_back(connection, held)
    held = must_claim(engine)
    assert held.attempts == 1  # the one that was given back does not count
    with transaction(engine) as connection:
        trainings.wait(connection, held, waiting_for="the bucket is away", progress={"furthest": [1, 0]})
    found = get(engine, training_id)
    assert (found.state, found.waiting_for, found.progress) == (
        "ready",
        "the bucket is away",
        {"furthest": [1, 0], "retries": 1},
    )
    assert claim(engine) is None
    forget_backoff(engine)
    assert must_claim(engine).waiting_for is None


def must_claim_in(connection: sa.Connection) -> TrainingInfo:
    held = trainings.claim(connection, worker="w", base_model="fake", lease_seconds=60)
    assert held is not None
    return held


def test_crashes_in_a_row_end_a_training_and_transient_errors_never_do(engine: sa.Engine) -> None:
    training_id = request(engine)
    for _ in range(3 * MAX_CRASHES):
        held = must_claim(engine)
        with transaction(engine) as connection:
            trainings.wait(connection, held, waiting_for="the bucket is away", progress=held.progress or {})
        forget_backoff(engine)
    for number in range(1, MAX_CRASHES + 1):
        held = must_claim(engine)
        with transaction(engine) as connection:
            failed = trainings.crashed(connection, held, how="killed by signal 9", progress=held.progress or {})
        assert failed == (number == MAX_CRASHES)
        forget_backoff(engine)
    found = get(engine, training_id)
    assert found.state == "failed"
    assert "3 times" in str(found.error)
    assert "killed by signal 9" in str(found.error)


def test_a_training_whose_leases_keep_expiring_fails_in_the_end(engine: sa.Engine) -> None:
    training_id = request(engine)
    for number in range(1, MAX_LOSSES + 1):
        must_claim(engine, lease_seconds=-1)
        with transaction(engine) as connection:
            expire_leases(connection)
        assert get(engine, training_id).state == ("ready" if number < MAX_LOSSES else "failed")
    assert "10 times" in str(get(engine, training_id).error)


def test_a_cancelled_training_is_lost_to_its_owner(engine: sa.Engine) -> None:
    training_id = request(engine)
    held = must_claim(engine)
    with transaction(engine) as connection:
        assert trainings.cancel(connection, training_id)
        assert not trainings.cancel(connection, training_id)
    with pytest.raises(LeaseLost), transaction(engine) as connection:
        trainings.settle(connection, held, verdict="promote")
    assert get(engine, training_id).state == "cancelled"
    with pytest.raises(UnknownName), transaction(engine) as connection:
        trainings.cancel(connection, 99)


def test_notifications_are_repeated_only_while_a_worker_may_receive_them(engine: sa.Engine) -> None:
    training_id = request(engine)

    def due() -> list[int]:
        with transaction(engine) as connection:
            return due_for_notification(connection, renotify_seconds=0)

    assert due() == [training_id]
    assert due() == []
    with transaction(engine) as connection:
        workers.start_worker(connection, worker="t", host="h", pid=1, queue=TRAIN_QUEUE, device="cpu")
    assert due() == [training_id]
    with transaction(engine) as connection:
        workers.stop_worker(connection, "t")
    assert due() == []


def test_reconcilers_notify_of_trainings_and_free_expired_ones(engine: sa.Engine, settings: Settings) -> None:
    training_id = request(engine)
    must_claim(engine, lease_seconds=-1)
    away = settings.model_copy(update={"broker_url": load_settings(broker_url="redis://127.0.0.1:1/0").broker_url})
    with make_app(away) as app:
        reconcile_once(engine, app, away)
    with make_app(settings) as app:
        reconcile_once(engine, app, settings)
        with app.connection_for_read() as connection, closing(connection.SimpleQueue(TRAIN_QUEUE)) as queue:
            message = queue.get(timeout=5)
            assert message.headers["task"] == "refresh_adapter"
            assert message.decode()[1] == {"training_id": training_id}
    assert get(engine, training_id).state == "ready"


def add_images(engine: sa.Engine, *, start: int, n: int, check: str = "overlay") -> None:
    """Labelled ones."""
    place = {"uri": "mem://a", "width": 1, "height": 1, "phash": "0", "cluster": "c", "split": "train"}
    keys = [f"{number:064x}" for number in range(start, start + n)]
    with transaction(engine) as connection:
        at = now(connection)
        connection.execute(sa.insert(LabelledImage), [{"content_sha256": key, "added_at": at, **place} for key in keys])
        labels = [NewLabel(content_sha256=key, label="none", who="ann", origin="import") for key in keys]
        add_labels(connection, check, labels)


def why(engine: sa.Engine, settings: Settings) -> str | None:
    with reading(engine) as connection:
        return triggers.reason_to_train(connection, settings, "overlay")


def test_enough_new_labels_start_one_training_and_do_not_repeat_it(engine: sa.Engine, settings: Settings) -> None:
    settings = settings.model_copy(update={"train_after_labels": 5})
    add_images(engine, start=0, n=4)
    assert triggers.check_triggers(engine, settings) == []
    add_images(engine, start=4, n=1)
    (training_id,) = triggers.check_triggers(engine, settings)
    assert triggers.check_triggers(engine, settings) == []  # it is under way
    found = get(engine, training_id)
    assert (found.reason, found.who, found.newest_label) == ("5 new labels (train_after_labels is 5)", None, 5)
    with transaction(engine) as connection:
        trainings.settle(connection, must_claim_in(connection), verdict="reject")
    add_images(engine, start=5, n=4)
    assert triggers.check_triggers(engine, settings) == []  # four new ones since
    add_images(engine, start=9, n=1)
    assert len(triggers.check_triggers(engine, settings)) == 1


def test_a_schedule_needs_a_new_label_and_a_last_training_long_ago(engine: sa.Engine, settings: Settings) -> None:
    settings = settings.model_copy(update={"train_every_hours": 24.0})
    assert why(engine, settings) is None
    add_images(engine, start=0, n=1)
    assert why(engine, settings) == "schedule: every 24 h, and 1 new label"
    with transaction(engine) as connection:
        newest = newest_label(connection, "overlay")
    request(engine, newest_label=newest)
    with transaction(engine) as connection:
        trainings.settle(connection, must_claim_in(connection), verdict="hold")
    assert why(engine, settings) is None
    with transaction(engine) as connection:
        yesterday = now(connection) - timedelta(hours=25)
        connection.execute(sa.update(Training).values({"created_at": yesterday}))
    assert why(engine, settings) is None  # nothing new since
    add_images(engine, start=1, n=1)
    assert why(engine, settings) == "schedule: every 24 h, and 1 new label"


def test_a_failed_training_is_not_repeated_for_a_few_more_labels(engine: sa.Engine, settings: Settings) -> None:
    settings = settings.model_copy(update={"train_after_labels": 1, "train_every_hours": 1e-9})
    add_images(engine, start=0, n=150)
    (first,) = triggers.check_triggers(engine, settings)
    with transaction(engine) as connection:
        trainings.settle(connection, must_claim_in(connection), error="cannot be learnt")
    add_images(engine, start=150, n=29)
    assert why(engine, settings) is None  # a fifth of 150 is 30
    add_images(engine, start=179, n=1)
    assert why(engine, settings) == "30 new labels (train_after_labels is 1)"
    assert get(engine, first).state == "failed"


def test_labels_of_a_check_given_as_a_file_start_trainings_too(engine: sa.Engine, settings: Settings) -> None:
    settings = settings.model_copy(update={"train_after_labels": 5})
    own = load_check("overlay").model_copy(update={"name": "own", "prompt": "Is there text?"})
    add_images(engine, start=0, n=5, check="own")
    assert triggers.check_triggers(engine, settings) == []  # nobody knows what the check asks
    with transaction(engine) as connection:
        save_check(connection, own)  # as a scan and an import of labels do
    (training_id,) = triggers.check_triggers(engine, settings)
    assert get(engine, training_id).check_name == "own"


def test_a_drift_alarm_starts_a_training_with_any_new_label(
    engine: sa.Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers.reference, "alarms", lambda *_: ["PSI 0.4 in s3://ads"])
    drifting = settings.model_copy(update={"train_on_drift": True})
    assert why(engine, drifting) is None
    add_images(engine, start=0, n=2)
    assert why(engine, drifting) == "drift: PSI 0.4 in s3://ads; 2 new labels"
    assert why(engine, settings) is None
