"""The steps of a fit: forwards, optimiser, validation after every epoch, checkpoints, and the best epoch at the end.

Knows nothing of networks: a `Task` says what a loss is. Randomness is seeded anew for every step, so that a training
that went on from a checkpoint ends, on one thread, in the same bits as one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from models.errors import ModelInvalid
from models.recipes import Recipe
from models.training.checkpoint import load_state, save_state
from models.training.data.sampler import Draw, Plan, Step
from models.training.data.types import Progress, Watcher
from models.training.optimiser import Optimiser

SAVE_SECONDS = 30.0  # between checkpoints within an epoch


class Task(Protocol):
    """What is learnt."""

    @property
    def state(self) -> Mapping[str, torch.Tensor]:
        """The trained tensors themselves, by name."""
        ...

    @property
    def parameters(self) -> Sequence[torch.nn.Parameter]: ...

    def learn(self, step: Step) -> float:
        """Leave the gradient of a step's mean loss on the parameters; returns that loss."""
        ...

    def validation(self) -> float | None:
        """Loss on the held-out examples, every class weighing the same; None: there are none."""
        ...


@dataclass(kw_only=True)
class Course:
    """How far a fit has come. step: steps done. losses: of this epoch so far. best: the trained tensors then."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    before: float | None = None  # validation loss of what has learnt nothing
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    finished: bool = False

    def progress(self) -> list[Progress]:
        return [Progress(**one) for one in self.history]


class Loop:
    """One fit over a plan. `file` holds its checkpoint."""

    def __init__(
        self, task: Task, plan: Plan, sizes: dict[Draw, int], recipe: Recipe, *, seed: int, file: Path, watch: Watcher
    ) -> None:
        self._task, self._plan, self._sizes, self._recipe = task, plan, sizes, recipe
        self._seed, self._file, self._watch = seed, file, watch
        self.epochs = recipe.n_epochs(plan.steps)
        self.steps = self.epochs * plan.steps
        self._optimiser = Optimiser(task.parameters, recipe)
        self.course = Course()
        self._begun = self._counted = self._saved = time.monotonic()  # of this attempt; of course.seconds
        self._here = 0  # steps of this attempt

    def run(self) -> Course:
        """Train, or go on training. Raises what the watcher raises, after a checkpoint."""
        self._resume()
        course, device = self.course, self._task.parameters[0].device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if course.before is None:
                course.before = self._task.validation()
            while not course.finished:
                for step in self._plan.epoch(course.epoch, self._sizes)[
                    course.step - course.epoch * self._plan.steps :
                ]:
                    self._step(step)
        return course

    def _step(self, step: Step) -> None:
        course = self.course
        torch.manual_seed(self._seed * 1_000_003 + course.step)
        loss = self._task.learn(step)
        if not math.isfinite(loss):
            raise ModelInvalid(f"the loss is {loss} at step {course.step + 1}: train with a lower lr")
        self._optimiser.step(course.step, self.steps)
        course.step += 1
        self._here += 1
        course.losses.append(loss)
        ends = course.step % self._plan.steps == 0
        validation = self._end_epoch() if ends else None
        if ends or time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()
        self._tell(self._progress(loss, validation))

    def _end_epoch(self) -> float | None:
        course = self.course
        validation = self._task.validation()
        course.epoch += 1
        mean = sum(course.losses) / len(course.losses)
        if validation is None or validation < course.best_loss:
            course.best_loss, course.best_epoch = math.inf if validation is None else validation, course.epoch
            course.best = {name: value.detach().clone() for name, value in self._task.state.items()}
        course.history.append(asdict(self._progress(mean, validation)))
        course.losses = []
        waited = course.epoch - course.best_epoch
        course.finished = course.epoch == self.epochs or bool(self._recipe.patience and waited >= self._recipe.patience)
        return validation

    def _progress(self, loss: float, validation: float | None) -> Progress:
        course, now = self.course, time.monotonic()
        pace = (now - self._begun) / self._here
        return Progress(
            step=course.step,
            steps=self.steps,
            epoch=min(self.epochs, -(-course.step // self._plan.steps)),
            epochs=self.epochs,
            loss=loss,
            validation=validation,
            seconds=course.seconds + now - self._counted,
            seconds_left=0.0 if course.finished else pace * (self.steps - course.step),
        )

    def _tell(self, progress: Progress) -> None:
        try:
            self._watch(progress)
        except BaseException:
            self._save()
            raise

    def _resume(self) -> None:
        state = load_state(self._file)
        if state is None:
            return
        self.course = Course(**state["course"])
        self._optimiser.load(state["optimiser"])

    def _save(self) -> None:
        now = time.monotonic()
        self.course.seconds += now - self._counted
        self._saved = self._counted = now
        save_state(self._file, {"course": vars(self.course), "optimiser": self._optimiser.state()})
