"""Input of a training, and its reports while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from PIL import Image

from scanfleet.models.adapters.card import AdapterCard
from scanfleet.models.types import Box


@dataclass(frozen=True, kw_only=True)
class Example:
    """One labelled image.

    Attributes:
        key: Permanent name (the hash of its bytes). Caches, samplers and folds use it instead of a position.
        path: An image file.
        label: Index into the question's labels.
        cluster: Name shared by images that look alike or belong together; no split separates them.
        boxes: The label's objects, in pixels of the upright image.
        open: Opens the file; safe decoding is up to the caller.
    """

    key: str
    path: Path
    label: int
    cluster: str
    boxes: tuple[Box, ...] = ()
    open: Callable[[Path], Image.Image] = field(default=Image.open, repr=False)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A training's progress.

    Attributes:
        step: Optimiser steps done, of `steps` in all.
        epoch: Epochs begun, of `epochs` in all.
        loss: In nats, of the step, or the mean of the epoch in a history; None while images are read.
        validation: Loss on the held-out part, at the end of an epoch.
        seconds: Seconds so far, with those of earlier attempts.
        seconds_left: Estimate; None while images are read.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float | None
    validation: float | None
    seconds: float
    seconds_left: float | None


class ProgressCallback(Protocol):
    """Called at every step. An error from it ends the training, which can resume from its last checkpoint."""

    def __call__(self, progress: Progress) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished fit, its weights not yet written to disk.

    Attributes:
        write: (folder, card) -> card; writes an adapter folder. The caller adds calibrator, thresholds and canary.
        history: One progress per epoch.
        figures: Seconds, steps, matched modules, sizes, the best epoch.
    """

    write: Callable[[Path, AdapterCard], AdapterCard]
    history: Sequence[Progress]
    figures: dict[str, float | int | str]
