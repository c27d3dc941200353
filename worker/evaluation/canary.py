"""A few images that are stored with an adapter, and the margins it must reproduce wherever it is loaded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from PIL import Image

from scanfleet.models.adapters.card import Canary
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question, Scorer

COUNT = 16
FOLDER = "canary"


def choose(examples: Sequence[Example], *, count: int = COUNT) -> list[Example]:
    """Choose images, evenly over the labels and one of each cluster. The choice is by hash and ignores the order."""
    by_label: dict[int, list[Example]] = {}
    clusters: set[str] = set()
    for example in sorted(examples, key=lambda one: hashlib.sha256(f"canary {one.key}".encode()).digest()):
        if example.cluster not in clusters:
            clusters.add(example.cluster)
            by_label.setdefault(example.label, []).append(example)
    ranked = [(place, label, one) for label, ones in by_label.items() for place, one in enumerate(ones)]
    return [one for _, _, one in sorted(ranked, key=lambda each: each[:2])[:count]]


def write_canary(folder: Path, examples: Sequence[Example], scorer: Scorer, *, count: int = COUNT) -> Canary:
    """Save images below an adapter's `folder` as PNG and score the saved files through the serving stack.

    They are shrunk to the question's pixel budget: the model never sees more, and originals would make an adapter slow
    to fetch. Raises ModelInvalid for margins that are not finite, and without any image.
    """
    chosen = choose(examples, count=count)
    if not chosen:
        raise ModelInvalid("a canary needs labelled images")
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    names, margins = [], []
    for number, example in enumerate(chosen):
        name = f"{FOLDER}/{number:02}.png"
        with example.open(example.path) as image:
            shrunk(image.convert("RGB"), scorer.question).save(folder / name, optimize=True)
        with Image.open(folder / name) as saved:
            (reading,) = scorer.score([scorer.prepare(saved.convert("RGB"))])
        if not math.isfinite(reading.margin):
            raise ModelInvalid("the adapter's margins are not finite numbers: its weights are broken")
        names.append(name)
        margins.append(reading.margin)
    precision = cast("Literal['fp32', 'bf16', 'int8', 'nf4']", scorer.identity.precision)
    return Canary(images=tuple(names), margins=tuple(margins), precision=precision)


def shrunk(image: Image.Image, question: Question) -> Image.Image:
    """The image within the pixel budget, with its aspect ratio."""
    scale = math.sqrt(question.max_pixels / (image.width * image.height))
    if scale >= 1:
        return image
    return image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.Resampling.LANCZOS)
