"""Labelled pictures for the built-in model, small enough to train on in seconds; and training workers."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from scanfleet.checks.check import load_check
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.engine import connect, now, reading, transaction
from scanfleet.db.labels.labels import NewLabel, add_labels, newest_label
from scanfleet.db.scans.checks import save_check
from scanfleet.db.tables import Adapter, LabelledImage
from scanfleet.db.training import trainings
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.models.pocket.scenes import CHECKS
from tests.helpers.migrated import upgrade
from tests.helpers.patience import patient

CHECK = "overlay"
SPLITS = ("train", "train", "train", "calibration", "threshold", "golden")
QUICK = {"epochs": 2, "min_steps": 0, "batch": 8, "lr": 2e-3}  # of the pocket recipe: seconds
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 120.0


def label_pictures(engine: sa.Engine, folder: Path, *, n: int = 54) -> list[Path]:
    """Draw pictures of the overlay check with their labels. Splits are assigned in turn, whatever their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = load_check(CHECK).labels
    images, said, paths = [], [], []
    for number in range(n):
        scene = CHECKS[CHECK].draw(7, number, 128, 128)
        path = folder / f"{number}.png"
        scene.image.save(path)
        paths.append(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        place = {"cluster": sha256, "split": SPLITS[(number // len(labels)) % len(SPLITS)], "phash": f"{number:016x}"}
        images.append(
            {"content_sha256": sha256, "uri": str(path), "root": str(folder), "width": 128, "height": 128} | place
        )
        said.append(NewLabel(content_sha256=sha256, label=scene.label, who="ann", origin="import"))
    with transaction(engine) as connection:
        at = now(connection)
        connection.execute(sa.insert(LabelledImage), [image | {"added_at": at} for image in images])
        add_labels(connection, CHECK, said)
    return paths


def request(engine: sa.Engine, **fields: Any) -> int:
    """A training of the check on all labels there are."""
    with transaction(engine) as connection:
        wanted: dict[str, Any] = {
            "check_id": save_check(connection, load_check(CHECK)),
            "check_name": CHECK,
            "base_model": "pocket",
            "recipe": "auto",
            "overrides": QUICK,
            "reason": "a test",
            "newest_label": newest_label(connection, CHECK),
        }
        return trainings.request(connection, **(wanted | fields))


class Ground:
    """A ledger with labels, and training workers as processes."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings: Settings = load_settings(data_dir=folder / "data", model="pocket", device="cpu", **settings)
        self.engine = connect(self.settings)
        upgrade(self.engine)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "OMP_NUM_THREADS": "1",
            "SCANFLEET_DATA_DIR": str(self.settings.data_dir),
            "SCANFLEET_MODEL": "pocket",
            "SCANFLEET_DEVICE": "cpu",
            **{f"SCANFLEET_{name.upper()}": str(value) for name, value in settings.items()},
        }

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "worker.log").open("ab") as log:
            command = [sys.executable, "-m", "scanfleet.worker", "train"]
            worker = subprocess.Popen(
                command, env=self._environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.workers.append(worker)
        return worker

    def training(self, training_id: int) -> TrainingInfo:
        with reading(self.engine) as connection:
            return trainings.get(connection, training_id)

    def adapters(self) -> list[sa.Row[Any]]:
        """The registered adapters without the shipped ones."""
        query = sa.select(Adapter.__table__).where(Adapter.training_id.is_not(None))
        with reading(self.engine) as connection:
            return list(connection.execute(query))

    def child_of(self, worker: subprocess.Popen[bytes]) -> int | None:
        """The computing process, on Linux."""
        for task in Path(f"/proc/{worker.pid}/task").glob("*/children"):
            for child in task.read_text().split():
                if b"scanfleet.worker.training.child" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        return None

    def until(self, condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > patient(seconds):
                log = (self.folder / "worker.log").read_text(errors="replace")[-4000:]
                raise AssertionError(f"waited {time.monotonic() - start:.0f} s for nothing:\n{log}")
            time.sleep(POLL_SECONDS)

    def until_ended(self, training_id: int) -> TrainingInfo:
        self.until(lambda: self.training(training_id).ended)
        return self.training(training_id)

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
                worker.wait()
        self.engine.dispose()


@contextmanager
def ground(folder: Path, **settings: Any) -> Iterator[Ground]:
    quick: dict[str, Any] = {
        "train_lease_seconds": 3.0,
        "reconcile_seconds": 0.3,
        "renotify_seconds": 1.0,
        "drain_seconds": 20.0,
        "train_after_labels": 100_000,
        "train_on_drift": False,
    }
    made = Ground(folder, **(quick | settings))
    try:
        yield made
    finally:
        made.close()
