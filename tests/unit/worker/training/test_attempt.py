"""One attempt at a training, its child a real process with small stages: the ledger records every outcome."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.schema import ledger
from scanfleet.db.tables import Training
from scanfleet.db.training import trainings
from scanfleet.db.training.champions import champion
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.worker.runtime.shutdown import Stop
from scanfleet.worker.training.attempt import Attempt
from scanfleet.worker.training.workspace import WorkFolder, folder_of
from tests.rigs.training_rig import request


@dataclass
class Ground:
    settings: Settings
    engine: sa.Engine
    script: Path
    stop: Stop

    def claim(self) -> TrainingInfo:
        with transaction(self.engine) as connection:
            connection.execute(sa.update(Training).values(not_before=None))
            held = trainings.claim(connection, worker="w", base_model="pocket", lease_seconds=60)
        assert held is not None
        return held

    def attempt(self, script: str) -> TrainingInfo:
        """Claim the training and run it. Returns the row afterwards."""
        self.script.write_text(script)
        return self.run(self.claim())

    def run(self, held: TrainingInfo, **how: float) -> TrainingInfo:
        Attempt(self.engine, self.settings, held, self.stop, module="tests.rigs.training_children", **how).run()
        return self.get(held.id)

    def get(self, training_id: int) -> TrainingInfo:
        with reading(self.engine) as connection:
            return trainings.get(connection, training_id)

    def when_at(self, stage: str, call: object) -> threading.Thread:
        """Call, in a thread, once the row says that the training is at a stage."""

        def wait() -> None:
            while self.get(1).stage != stage:
                self.stop.wait_draining(0.02)
            call()  # type: ignore[operator]

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    script = tmp_path / "script"
    monkeypatch.setenv("SCRIPT_FILE", str(script))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    settings = load_settings(data_dir=tmp_path / "data", model="pocket", train_lease_seconds=30.0)
    with ledger(settings) as engine:
        request(engine)
        yield Ground(settings=settings, engine=engine, script=script, stop=Stop(drain_seconds=30.0))


def test_a_training_survives_crashes_and_outages_and_promotes_its_adapter(ground: Ground) -> None:
    found = ground.attempt("dies")
    assert (found.state, found.stage, found.waiting_for) == ("ready", "fit", "its process ended (killed by signal 9)")
    found = ground.attempt("waits")
    assert (found.state, found.waiting_for, found.adapter_id) == ("ready", "the bucket is away", None)
    found = ground.attempt("works")
    assert (found.state, found.verdict, found.error, found.waiting_for) == ("done", "promote", None, None)
    assert found.report is not None
    assert found.report["gate"]["reason"] == "better"
    with reading(ground.engine) as connection:
        in_use = champion(connection, "overlay", "pocket")
    assert in_use is not None
    assert (in_use.id, in_use.gate_verdict) == (found.adapter_id, "promote")
    left = {path.name for path in folder_of(ground.settings, found.id).iterdir()}
    assert left == {"training.json", "lock", "report.json"}


def test_a_bug_is_a_crash_and_what_a_person_must_change_ends_a_training_at_once(ground: Ground) -> None:
    found = ground.attempt("raises")
    assert (found.state, found.waiting_for) == ("ready", "its process ended (ZeroDivisionError: by itself)")
    assert (found.progress or {})["crashes"] == 1
    found = ground.attempt("fails")
    assert (found.state, found.error) == ("failed", "too few labelled images")
    assert "images" in (found.report or {})["seconds"]  # the figures of what came before


def test_a_stopping_worker_hands_back_at_once(ground: Ground) -> None:
    ground.script.write_text("lingers")
    thread = ground.when_at("fit", lambda: ground.stop.request("a test"))
    found = ground.run(ground.claim())
    thread.join()
    assert (found.state, found.stage, found.attempts, found.not_before) == ("ready", "fit", 0, None)
    assert (folder_of(ground.settings, 1) / "images.json").is_file()


def test_a_cancelled_training_ends_its_process_and_writes_nothing(ground: Ground) -> None:
    ground.settings = ground.settings.model_copy(update={"train_lease_seconds": 0.5})
    ground.script.write_text("lingers")

    def cancel() -> None:
        with transaction(ground.engine) as connection:
            trainings.cancel(connection, 1)

    thread = ground.when_at("fit", cancel)
    found = ground.run(ground.claim())
    thread.join()
    assert (found.state, found.adapter_id, found.error) == ("cancelled", None, None)


@pytest.mark.slow
def test_a_child_without_a_message_for_too_long_is_killed(ground: Ground) -> None:
    ground.script.write_text("hangs")
    found = ground.run(ground.claim(), stall_seconds=6.0)
    assert (found.state, "6 s" in str(found.waiting_for)) == ("ready", True)


def test_a_folder_in_which_another_process_works_is_left_alone(ground: Ground) -> None:
    """As after a lease that expired while its owner was only slow."""
    with closing(WorkFolder(folder_of(ground.settings, 1), {})):
        found = ground.attempt("works")
    assert (found.state, found.adapter_id) == ("ready", None)
    assert found.waiting_for is not None
    assert str(folder_of(ground.settings, 1)) in found.waiting_for
