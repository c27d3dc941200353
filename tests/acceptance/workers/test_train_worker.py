"""Training workers as real processes, with the built-in model: killed anywhere, they produce the same adapter."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.models.adapters.card import read_adapter
from scanfleet.worker.training.child import STAGES
from scanfleet.worker.training.workspace import folder_of
from tests.helpers.cli_call import scanfleet
from tests.rigs.training_rig import Ground, ground, label_pictures, request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a child that dies with its parent needs Linux")


def assert_whole(here: Ground) -> None:
    """Every visible adapter is complete: folders under their name, and rows of the registry."""
    place = here.settings.data_dir / "adapters"
    folders = [path for path in place.glob("*") if not path.name.startswith(".")]
    for folder in folders:
        assert read_adapter(folder).card.weights_sha256 == folder.name
    for row in here.adapters():
        card = read_adapter(Path(row.uri)).card
        assert card.weights_sha256 == row.weights_sha256
        assert card.canary is not None
        assert row.canary == card.canary.model_dump(mode="json")


def kill(here: Ground, worker: "subprocess.Popen[bytes]", *, child: bool) -> None:
    """SIGKILL to the worker, or to the process that computes."""
    computing = here.child_of(worker)
    if child and computing is not None:
        os.kill(computing, signal.SIGKILL)
        return
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    if computing is not None:
        here.until(lambda: not Path(f"/proc/{computing}/cmdline").exists())


def assert_done(here: Ground, found: TrainingInfo) -> None:
    assert (found.state, found.error) == ("done", None)
    assert found.verdict in ("promote", "hold", "reject")
    (row,) = here.adapters()
    assert (row.id, row.training_id, row.gate_verdict) == (found.adapter_id, found.id, found.verdict)
    assert_whole(here)


@pytest.mark.slow
def test_a_killed_worker_loses_an_attempt_and_the_next_one_resumes(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    with ground(tmp_path, train_shadow_images=0, adapters_url=str(shared)) as here:
        label_pictures(here.engine, tmp_path / "pictures")
        training_id = request(here.engine)
        first = here.start()
        here.until(lambda: here.training(training_id).stage == "fit")
        listed = scanfleet("worker", "ls", data_dir=here.settings.data_dir)
        assert f"training {training_id} (fit)" in listed.stdout
        kill(here, first, child=False)
        images = folder_of(here.settings, training_id) / "images.json"
        written = images.stat().st_mtime_ns
        second = here.start()
        here.until(lambda: here.training(training_id).lease_token == 2)
        here.until(lambda: here.training(training_id).stage == "calibrate")
        assert images.stat().st_mtime_ns == written
        assert_done(here, here.until_ended(training_id))
        assert Path(here.adapters()[0].uri).parent == shared
        left = {"training.json", "lock", "report.json", "report.html", "report.png"}
        here.until(lambda: {path.name for path in folder_of(here.settings, training_id).iterdir()} == left)
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 0
        followed = scanfleet("train", "watch", str(training_id), data_dir=here.settings.data_dir)
        assert (followed.returncode, "is registered, not in use" in followed.stderr) == (0, True)
        shown = scanfleet("train", "show", str(training_id), "--format", "json", data_dir=here.settings.data_dir)
        assert json.loads(shown.stdout)["report"]["labels"]["golden"] == {"natural": 3, "none": 3, "overlay": 3}


@pytest.mark.slow
def test_a_training_killed_at_every_stage_equals_an_undisturbed_one(tmp_path: Path) -> None:
    with ground(tmp_path / "calm") as calm:
        label_pictures(calm.engine, tmp_path / "pictures")
        training_id = request(calm.engine)
        calm.start()
        assert_done(calm, calm.until_ended(training_id))
        (expected,) = calm.adapters()
    with ground(tmp_path / "rough") as rough:
        label_pictures(rough.engine, tmp_path / "pictures")
        training_id = request(rough.engine)
        worker = rough.start()
        names = [name for name, _ in STAGES]
        reached = set()
        for number in range(len(names)):
            later = names[number:]
            rough.until(
                lambda later=later: rough.training(training_id).stage in later or rough.training(training_id).ended
            )
            found = rough.training(training_id)
            if found.ended:
                break
            reached.add(found.stage)
            kill(rough, worker, child=bool(number % 2))
            assert_whole(rough)
            if worker.poll() is not None:
                worker = rough.start()
            token = found.lease_token
            rough.until(
                lambda token=token: rough.training(training_id).lease_token > token or rough.training(training_id).ended
            )
        assert_done(rough, rough.until_ended(training_id))
        (found_row,) = rough.adapters()
        assert len(reached) >= 5
        assert found_row.weights_sha256 == expected.weights_sha256
        assert (found_row.calibrator, found_row.canary) == (expected.calibrator, expected.canary)
