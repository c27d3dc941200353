"""Labelled pictures for trainings in tests, and a watcher that does nothing."""

from __future__ import annotations

from pathlib import Path

from scanfleet.models.training.data.types import Example, Progress
from scanfleet.models.types import Box, Question
from tests.unit.models import tiny_models as tiny

QUESTION = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    max_pixels=100 * 100,
    order="instruction-first",
)


def pictures(folder: Path, count: int, *, first: int = 0, box: Box | None = None) -> list[Example]:
    """Pictures of three sizes, labelled in turn; from `first` on, so that two lists can differ in all."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i in range(first, first + count):
        path = folder / f"{i}.png"
        if not path.exists():
            tiny.picture(70 + 30 * (i % 3), 64, i).save(path)
        boxes = () if box is None else (box,)
        made.append(Example(key=f"{i:064x}", path=path, label=i % 3, cluster=str(i), boxes=boxes))
    return made


def ignore_progress(progress: Progress) -> None:
    """Lets a training run."""
