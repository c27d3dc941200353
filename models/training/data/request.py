"""The request behind a fit: checked before any image is read, and identified by a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scanfleet.models.adapters.card import read_card
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import BaseModel
from scanfleet.models.recipes import Recipe
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """Examples, question and recipe of a fit.

    Attributes:
        question: The question to train for.
        train: Labelled images.
        validation: Held-out images.
        recipe: What is trained, and how.
        seed: Of the whole training.
        base_adapter: Folder of an adapter over whose LoRA a head is trained, or that is trained further; None: the
            base.
    """

    question: Question
    train: Sequence[Example]
    validation: Sequence[Example]
    recipe: Recipe
    seed: int
    base_adapter: Path | None

    def check(self) -> None:
        """Check that the parts fit together.

        Raises:
            ModelInvalid: They do not; the message names the part.
        """
        name = self.question.name
        if self.question.steps:
            raise ModelInvalid(f"question {name!r} has steps, which cannot be trained: write it as one prompt")
        if self.recipe.activated and self.base_adapter is None and not self.question.image_first:
            raise ModelInvalid(
                f"recipe {self.recipe.name} trains what stands behind the image, and question {name!r} is asked "
                "instruction first: remove order from the check, or choose recipe lora"
            )
        wrong = [e.key for e in (*self.train, *self.validation) if not 0 <= e.label < len(self.question.labels)]
        if wrong:
            raise ModelInvalid(f"{len(wrong)} examples have a label outside question {name!r}, the first is {wrong[0]}")
        labels = {example.label for example in self.train}
        if len(labels) < 2:
            raise ModelInvalid(
                f"the {len(self.train)} training images have {len(labels)} of the labels: label images of at least two"
            )
        both = {example.cluster for example in self.train} & {example.cluster for example in self.validation}
        if both:
            raise ModelInvalid(
                f"{len(both)} clusters are in training and validation, such as {min(both)}: split by cluster"
            )

    def fingerprint(self, base: BaseModel) -> str:
        """Return a digest of everything that the result depends on.

        It keeps a training from resuming from another one's checkpoint.
        """
        question = {**asdict(self.question), "flags": sorted(self.question.flags)}
        parts = [[_identity(example) for example in part] for part in (self.train, self.validation)]
        under = None if self.base_adapter is None else read_card(self.base_adapter).weights_sha256
        what = [base.checkpoint.revision, base.precision, question, parts, self.recipe.model_dump(), self.seed, under]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _identity(example: Example) -> list[object]:
    return [example.key, example.label, [asdict(box) for box in example.boxes]]
