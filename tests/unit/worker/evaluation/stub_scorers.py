"""Scorers without a model: the red of an image's first pixel is what they see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from scanfleet.models.errors import ImageUnsuitable
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Detail, ModelIdentity, Question, Reading

QUESTION = Question(name="q", prompt="Is it?", labels=("yes", "no"), flags=frozenset({"yes"}), max_pixels=64)


IDENTITY = ModelIdentity(base_model="stub", revision="1", precision="fp32", adapter_sha256=None)


@dataclass(frozen=True)
class Seen:
    red: int
    size: tuple[int, int]
    visual_tokens: int = 4


@dataclass
class RedScorer:
    """margin_of: from the red (0 to 255) to the margin. Refuses images whose blue is 255."""

    margin_of: Callable[[int], float]
    question: Question = QUESTION
    packs: list[int] = field(default_factory=list)  # images of each forward
    prepared: int = 0
    detail: Detail | None = None
    identity: ModelIdentity = IDENTITY

    def prepare(self, image: Image.Image) -> Seen:
        red, _, blue = image.getpixel((0, 0))
        if blue == 255:
            raise ImageUnsuitable("too thin for the model")
        self.prepared += 1
        return Seen(red, image.size)

    def score(self, prepared: Sequence[Seen]) -> list[Reading]:
        self.packs.append(len(prepared))
        margins = [self.margin_of(one.red) for one in prepared]
        return [Reading(margin=m, logits=(m, 0.0), mass=0.99, visual_tokens=one.visual_tokens)
                for m, one in zip(margins, prepared, strict=True)]  # fmt: skip


def example(folder: Path, key: str, red: int, *, yes: bool, blue: int = 0, side: int = 8, cluster: str = "") -> Example:
    path = folder / f"{key}.png"
    Image.new("RGB", (side, side), (red, 0, blue)).save(path)
    return Example(key=key, path=path, label=0 if yes else 1, cluster=cluster or key)
