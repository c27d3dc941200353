"""What the stages of a training share, and how they tell where they stand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import sqlalchemy as sa

from models import factory
from models.errors import ModelInvalid, ModelUnavailable
from models.types import Question, Scorer
from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.training.trainings import TrainingInfo
from scanfleet.errors import DeviceUnavailable, TrainingFailed
from worker.scoring.adapters import AdapterFolders
from worker.training.workspace import WorkFolder

if TYPE_CHECKING:
    from models.network.base import BaseModel, Precision

TELL_SECONDS = 0.5  # between two words about the same stage


class StopAskedError(Exception):
    """The worker ends: what is done so far stays in the work folder."""


class Send(Protocol):
    def __call__(self, kind: str, **fields: Any) -> None: ...


class Teller:
    """Says where a training stands, and raises StopAskedError where it is to stop."""

    def __init__(self, send: Send, *, stop: Callable[[], bool] = lambda: False) -> None:
        self._send = send
        self._stop = stop
        self._stage, self._number = "", 0
        self._told = 0.0

    def begin(self, stage: str, number: int) -> None:
        self.check()
        self._stage, self._number = stage, number
        self._told = 0.0
        self.say()

    def say(self, **figures: Any) -> None:
        """figures: for people; None is left out. Raises StopAskedError."""
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            told = {name: value for name, value in plain(figures).items() if value is not None}
            self._send("progress", stage=self._stage, number=self._number, figures=told)
        self.check()

    def count(self, done: int, total: int) -> None:
        self.say(step=done, steps=total)

    def check(self) -> None:
        if self._stop():
            raise StopAskedError


@dataclass
class Context:
    """One attempt at a training. results: what the stages brought so far, by name."""

    settings: Settings
    engine: sa.Engine
    held: TrainingInfo
    check: Check
    question: Question
    work: WorkFolder
    tell: Teller
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def folders(self) -> AdapterFolders:
        return AdapterFolders(self.settings)

    @cached_property
    def base(self) -> BaseModel:
        """The base model, loaded on first use. Raises TrainingFailed, DeviceUnavailable."""
        from models.network.base import load_base

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

    def scorer(self, adapter: Path | None = None) -> Scorer:
        """As a worker would serve it: by an adapter folder, or by the base alone. Raises ModelInvalid."""
        from worker.scoring.error_mapping import MappedScorer

        return cast("Scorer", MappedScorer(factory.scorer(self.base, self.question, adapter)))


Stage = Callable[[Context], dict[str, Any]]


def run_stages(context: Context, stages: tuple[tuple[str, Stage], ...]) -> None:
    """In their order; those that were done are taken as they are. Each result is JSON."""
    for number, (name, stage) in enumerate(stages):
        context.tell.begin(name, number)
        result = context.work.result(name)
        if result is None:
            started = time.monotonic()
            result = plain(stage(context)) | {"seconds": round(time.monotonic() - started, 3)}
            context.work.settle(name, result)
        context.results[name] = result


def plain(value: Any) -> Any:
    """As JSON knows it: numbers that are none, as the loss of a training that ran away, become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value
