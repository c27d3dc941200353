"""Handles the notifications of a training worker: claims a training and runs it. One at a time."""

from __future__ import annotations

import time

import sqlalchemy as sa
import structlog

from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading, transaction
from scanfleet.db.training import trainings, upkeep
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.errors import DatabaseUnavailable
from scanfleet.worker.runtime.retry import retry_until
from scanfleet.worker.runtime.shutdown import Stop
from scanfleet.worker.training.attempt import CHILD, Attempt
from scanfleet.worker.training.workspace import FOLDER, needs_cleaning, sweep

log = structlog.get_logger()


class Trainer:
    """name: of this worker. module: the child process that computes (`worker.training.attempt`)."""

    def __init__(self, engine: sa.Engine, settings: Settings, *, name: str, stop: Stop, module: str = CHILD) -> None:
        self._engine = engine
        self._settings = settings
        self._stop = stop
        self._module = module
        self.name = name
        self.n_taken = 0  # trainings claimed since the start
        self.n_active = 0

    def run(self, notified: int | None) -> None:
        """Run the notified training, or another one of this base model, if there is one."""
        training = self._claim(notified)
        if training is None:
            return
        self.n_taken += 1
        self.n_active += 1
        try:
            Attempt(self._engine, self._settings, training, self._stop, module=self._module).run()
        finally:
            self.n_active -= 1

    def _claim(self, notified: int | None) -> TrainingInfo | None:
        if self._stop.draining:
            self._pass_on(notified)
            return None
        deadline = time.monotonic() + self._settings.train_lease_seconds

        def claim() -> TrainingInfo | None:
            with transaction(self._engine) as connection:
                return trainings.claim(
                    connection,
                    worker=self.name,
                    base_model=self._settings.model,
                    lease_seconds=self._settings.train_lease_seconds,
                    notified=notified,
                )

        try:
            return retry_until(claim, until=lambda: deadline, stop=self._stop)
        except DatabaseUnavailable as error:
            log.warning("claim_failed", training=notified, error=str(error))  # it is still ready and is notified again
            return None

    def _pass_on(self, notified: int | None) -> None:
        """Have the reconcilers notify another worker at once: this notification came while stopping."""
        if notified is None:
            return
        try:
            with transaction(self._engine) as connection:
                upkeep.mark_notified(connection, [notified], at=None)
        except DatabaseUnavailable as error:
            log.warning("notification_dropped", training=notified, error=str(error))

    def has_work(self) -> bool:
        with reading(self._engine) as connection:
            return trainings.has_ready(connection, self._settings.model)

    def sweep(self) -> None:
        """Delete images and caches of trainings that have ended; their reports stay."""
        for folder in sorted((self._settings.data_dir / FOLDER).glob("[0-9]*")):
            if not needs_cleaning(folder):
                continue
            with reading(self._engine) as connection:
                training = trainings.find(connection, int(folder.name))
            if training is None or training.ended:
                sweep(folder)
