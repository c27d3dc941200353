"""What goes into a training, and what it says of itself while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from PIL import Image

from models.adapters.card import AdapterCard
from models.types import Box


@dataclass(frozen=True, kw_only=True)
class Example:
    """One labelled image.

    key: its name for all time (the hash of its bytes): caches, samplers and folds go by it, never by position.
    path: an image file. label: index into the question's labels. cluster: images that look alike or belong together;
    they never lie on both sides of a split. boxes: where the label's things are, in pixels of the upright image.
    """

    key: str
    path: Path
    label: int
    cluster: str
    boxes: tuple[Box, ...] = ()
    open: Callable[[Path], Image.Image] = field(default=Image.open, repr=False)  # safe decoding is the caller's affair


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands. loss: mean since the last word. validation: loss on the held-out part, once known."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float | None
    validation: float | None
    seconds: float  # so far, those of earlier attempts included
    seconds_left: float | None


class ProgressCallback(Protocol):
    """Told of every step; raises to end the training, which then goes on from its last checkpoint another time."""

    def __call__(self, progress: Progress) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished fit, its weights not yet written anywhere.

    write(folder, card): writes an adapter folder; calibrator, thresholds and canary are the caller's.
    history: one Progress an epoch. figures: seconds, steps, matched modules, sizes, the best epoch.
    """

    write: Callable[[Path, AdapterCard], AdapterCard]
    history: Sequence[Progress]
    figures: dict[str, float | int | str]
