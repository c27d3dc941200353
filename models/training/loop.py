"""The steps of a fit: forwards, optimiser, validation after every epoch, checkpoints, and the best epoch at the end.

Knows no networks: a `Task` defines the loss. Every step has its own seed, so that a training that resumes from a
checkpoint ends, on one thread, with the same bits as one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.recipes import Recipe
from scanfleet.models.training.checkpoint import load_state, save_state
from scanfleet.models.training.data.sampler import Plan, SampleId, Step
from scanfleet.models.training.data.types import Progress, ProgressCallback
from scanfleet.models.training.optimiser import Optimiser

SAVE_SECONDS = 30.0  # between checkpoints within an epoch


class Task(Protocol):
    """The loss and the tensors that are trained."""

    @property
    def state(self) -> Mapping[str, torch.Tensor]:
        """The trained tensors themselves, by name, each in its module's shape (a head: weight `[labels, hidden]`)."""
        ...

    @property
    def parameters(self) -> Sequence[torch.nn.Parameter]:
        """The same tensors as the optimiser takes them."""
        ...

    def learn(self, step: Step) -> float:
        """Run one optimiser step's forwards and leave the gradient of their mean loss on the parameters.

        Returns:
            The mean loss in nats.
        """
        ...

    def validation(self) -> float | None:
        """Return the loss in nats on the held-out examples, with equal weight for every class; None without any."""
        ...


@dataclass(kw_only=True)
class FitState:
    """The progress of a fit, as a checkpoint stores it.

    Attributes:
        step: Optimiser steps done.
        epoch: Epochs done.
        seconds: Of all attempts.
        losses: Of the current epoch, one per step.
        history: One `Progress` per epoch.
        before: Validation loss before the first step.
        best_loss, best_epoch: Of the best epoch so far.
        best: The trained tensors then, as `Task.state`.
        finished: No further epoch follows.
    """

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    before: float | None = None
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    finished: bool = False

    def progress(self) -> list[Progress]:
        """Return one progress per epoch."""
        return [Progress(**one) for one in self.history]


class Loop:
    """One fit over a plan.

    Args:
        task: Loss and trained tensors.
        plan: The images of each step.
        sizes: Tokens of each image.
        recipe: Epochs, rates and patience.
        seed: Of every step, together with its number.
        file: The checkpoint.
        on_progress: Called at every step.
    """

    def __init__(
        self,
        task: Task,
        plan: Plan,
        sizes: dict[SampleId, int],
        recipe: Recipe,
        *,
        seed: int,
        file: Path,
        on_progress: ProgressCallback,
    ) -> None:
        self._task, self._plan, self._sizes, self._recipe = task, plan, sizes, recipe
        self._seed, self._file, self._on_progress = seed, file, on_progress
        self.epochs = recipe.n_epochs(plan.steps)
        self.steps = self.epochs * plan.steps
        self._optimiser = Optimiser(task.parameters, recipe)
        self.state = FitState()
        # Start of this attempt, end of the time in state.seconds, and last checkpoint.
        self._started = self._counted = self._saved = time.monotonic()
        self._steps_here = 0  # steps of this attempt

    def run(self) -> FitState:
        """Train from the checkpoint, if any, to the end.

        Returns:
            The final state.

        Raises:
            ModelInvalid: The loss diverges, or a trained tensor has no effect.
            Exception: Whatever `on_progress` raises, after a checkpoint.
        """
        self._resume()
        state, device = self.state, self._task.parameters[0].device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if state.before is None:
                state.before = self._task.validation()
            while not state.finished:
                for step in self._plan.epoch(state.epoch, self._sizes)[state.step - state.epoch * self._plan.steps :]:
                    self._step(step)
        return state

    def _step(self, step: Step) -> None:
        state = self.state
        torch.manual_seed(self._seed * 1_000_003 + state.step)
        loss = self._task.learn(step)
        if not math.isfinite(loss):
            raise ModelInvalid(f"the loss is {loss} at step {state.step + 1}: train with a lower lr")
        self._optimiser.step(state.step, self.steps)
        state.step += 1
        self._steps_here += 1
        state.losses.append(loss)
        ends = state.step % self._plan.steps == 0
        validation = self._end_epoch() if ends else None
        if ends or time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()
        self._report(self._progress(loss, validation))

    def _end_epoch(self) -> float | None:
        state = self.state
        validation = self._task.validation()
        state.epoch += 1
        mean = sum(state.losses) / len(state.losses)
        if validation is None or validation < state.best_loss:
            state.best_loss, state.best_epoch = math.inf if validation is None else validation, state.epoch
            state.best = {name: value.detach().clone() for name, value in self._task.state.items()}
        state.history.append(asdict(self._progress(mean, validation)))
        state.losses = []
        waited = state.epoch - state.best_epoch
        state.finished = state.epoch == self.epochs or bool(self._recipe.patience and waited >= self._recipe.patience)
        return validation

    def _progress(self, loss: float, validation: float | None) -> Progress:
        state, now = self.state, time.monotonic()
        seconds_per_step = (now - self._started) / self._steps_here
        return Progress(
            step=state.step,
            steps=self.steps,
            epoch=min(self.epochs, -(-state.step // self._plan.steps)),
            epochs=self.epochs,
            loss=loss,
            validation=validation,
            seconds=state.seconds + now - self._counted,
            seconds_left=0.0 if state.finished else seconds_per_step * (self.steps - state.step),
        )

    def _report(self, progress: Progress) -> None:
        try:
            self._on_progress(progress)
        except BaseException:
            self._save()
            raise

    def _resume(self) -> None:
        saved = load_state(self._file)
        if saved is None:
            return
        self.state = FitState(**saved["course"])
        self._optimiser.load(saved["optimiser"])

    def _save(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self._counted
        self._saved = self._counted = now
        save_state(self._file, {"course": vars(self.state), "optimiser": self._optimiser.state()})
