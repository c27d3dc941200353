"""The context that the stages of a training share, and the loop that runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.errors import DeviceUnavailable, TrainingFailed
from scanfleet.models import factory
from scanfleet.models.errors import ModelInvalid, ModelUnavailable
from scanfleet.models.types import Order, Question, Scorer
from scanfleet.worker.scoring.adapters import AdapterFolders
from scanfleet.worker.training.progress import ProgressReporter, to_json
from scanfleet.worker.training.workspace import WorkFolder

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel, Precision


@dataclass
class Context:
    """One attempt at a training. results: of the finished stages, by name."""

    settings: Settings
    engine: sa.Engine
    training: TrainingInfo
    check: Check
    question: Question
    work: WorkFolder
    progress: ProgressReporter
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def folders(self) -> AdapterFolders:
        return AdapterFolders(self.settings)

    @cached_property
    def base(self) -> BaseModel:
        """The base model, loaded on first use. Raises TrainingFailed, DeviceUnavailable."""
        from scanfleet.models.network.base import load_base

        try:
            return load_base(
                self.settings.model,
                revision=self.settings.model_revision,
                precision=cast("Precision", self.settings.precision),
                device=self.settings.device,
            )
        except ModelInvalid as error:
            raise TrainingFailed(f"model: {error}") from error
        except ModelUnavailable as error:
            raise DeviceUnavailable(f"model: {error}") from error

    def scorer(self, adapter: Path | None = None, *, keep_features: bool = False) -> Scorer:
        """The scorer that a worker would serve with this adapter, or with the base alone. Raises ModelInvalid.

        keep_features: its readings keep the mean of each image's visual tokens.
        """
        from scanfleet.worker.scoring.error_mapping import MappedScorer

        made = factory.scorer(self.base, self.question, adapter, rotated=True)
        made.keep_features = keep_features
        return cast("Scorer", MappedScorer(made))

    def plain(self, order: Order | None = None) -> Scorer:
        """The base alone, its menu as the question has it, which an adapter is trained from.

        order: what it reads first where the question does not say it; None: as the base learnt.
        """
        from scanfleet.worker.scoring.error_mapping import MappedScorer

        question = replace(self.question, order=self.question.order or order)
        return cast("Scorer", MappedScorer(factory.scorer(self.base, question)))


Stage = Callable[[Context], dict[str, Any]]


def run_stages(context: Context, stages: tuple[tuple[str, Stage], ...]) -> None:
    """Run the stages in order, except those that have a result already. Each result is JSON."""
    for number, (name, stage) in enumerate(stages):
        context.progress.begin(name, number)
        result = context.work.result(name)
        if result is None:
            started = time.monotonic()
            result = to_json(stage(context)) | {"seconds": round(time.monotonic() - started, 3)}
            context.work.settle(name, result)
        context.results[name] = result
