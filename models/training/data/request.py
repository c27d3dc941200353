"""What a fit was asked to do: checked before anything is read, and told from everything else by a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from models.adapters.card import read_card
from models.errors import ModelInvalid
from models.network.base import BaseModel
from models.recipes import Recipe
from models.training.data.types import Example
from models.types import Question


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """over: an adapter folder, over whose LoRA a head is trained."""

    question: Question
    train: Sequence[Example]
    validation: Sequence[Example]
    recipe: Recipe
    seed: int
    base_adapter: Path | None

    def check(self) -> None:
        """Raises ModelInvalid, in one line, for parts that do not go together."""
        name = self.question.name
        if self.question.steps:
            raise ModelInvalid(f"question {name!r} has steps, which cannot be trained: ask it in one prompt")
        if self.base_adapter is not None and self.recipe.trains != "head":
            raise ModelInvalid(
                f"recipe {self.recipe.name} starts from the base; only a head is trained over an adapter"
            )
        wrong = [e.key for e in (*self.train, *self.validation) if not 0 <= e.label < len(self.question.labels)]
        if wrong:
            raise ModelInvalid(f"{len(wrong)} examples have no label of question {name!r}, the first is {wrong[0]}")
        labels = {example.label for example in self.train}
        if len(labels) < 2:
            raise ModelInvalid(
                f"the {len(self.train)} training images have {len(labels)} of the labels: two are needed"
            )
        both = {example.cluster for example in self.train} & {example.cluster for example in self.validation}
        if both:
            raise ModelInvalid(
                f"{len(both)} clusters lie in training and validation, one is {min(both)}: split by them"
            )

    def fingerprint(self, base: BaseModel) -> str:
        """Of everything that the result depends on: no training goes on from another one's checkpoint."""
        question = {**asdict(self.question), "flags": sorted(self.question.flags)}
        parts = [[_identity(example) for example in part] for part in (self.train, self.validation)]
        under = None if self.base_adapter is None else read_card(self.base_adapter).weights_sha256
        what = [base.checkpoint.revision, base.precision, question, parts, self.recipe.model_dump(), self.seed, under]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _identity(example: Example) -> list[object]:
    return [example.key, example.label, [asdict(box) for box in example.boxes]]
